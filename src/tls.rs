//! TLS: what is trusted, what is shown, and what went wrong, in words that an operator can act on.
//!
//! Versions 1.2 and 1.3, by aws-lc. The provider is named wherever a configuration is built, so that nothing depends
//! on a default of the whole process.

mod server;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use server::{HTTP1, HTTP2, Server};

/// What cannot be used of the PEM texts given, named as the configuration names them: `ca`, `cert`, `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterialError {
    part: &'static str,
    why: String,
}

impl MaterialError {
    fn new(part: &'static str, why: impl Into<String>) -> Self {
        Self { part, why: why.into() }
    }

    /// Which of them: `ca`, `cert` or `key`.
    #[must_use]
    pub const fn part(&self) -> &'static str {
        self.part
    }
}

/// What is wrong with it; nothing of what it holds.
impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Error for MaterialError {}

/// The client side: whom to trust, and who we are. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::Client")
    }
}

impl Client {
    /// Trusts the authorities in `ca`, or else those of this machine (or of `SSL_CERT_FILE`); shows `identity`, a
    /// certificate with its chain and its key, to a server that asks for one. All are PEM texts.
    ///
    /// # Errors
    /// When one of them is not what it should be, or this machine has no authorities.
    pub fn new(ca: Option<&str>, identity: Option<(&str, &str)>) -> Result<Self, MaterialError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| MaterialError::new("ca", error.to_string()))?
            .with_root_certificates(roots(ca)?);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(certificates("cert", cert)?, private_key("key", key)?)
                .map_err(|error| MaterialError::new("key", unfit(&error)))?,
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Trusts nobody: for calls that are made in clear alone.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub fn nobody() -> Result<Self, MaterialError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| MaterialError::new("ca", error.to_string()))?
            .with_root_certificates(RootCertStore::empty());
        Ok(Self {
            config: Arc::new(builder.with_no_client_auth()),
        })
    }

    /// The same, offering these protocols by ALPN (RFC 7301), the one liked best first.
    #[must_use]
    pub fn offering(&self, protocols: &[&[u8]]) -> Self {
        let mut config = self.config();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self {
            config: Arc::new(config),
        }
    }

    /// The same as a configuration of the library, for a client that makes its connections itself.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        ClientConfig::clone(&self.config)
    }

    /// Shakes hands over `stream` with the server that is called `host`, a name or an IP address; its certificate must
    /// be for that.
    ///
    /// # Errors
    /// Why the other side is not trusted, or does not trust us. The text is for operators and holds no secret.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| "not a name that a certificate can be for")?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connected = connector.connect(name, stream).await;
        connected.map_err(|error| match explain(&error) {
            Some(why) => why,
            None => format!(
                "the server closed the connection during the TLS handshake: {}",
                error.kind()
            ),
        })
    }
}

/// The one provider of all that is cryptographic.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificates in a PEM text, in its order; at least one. `part` is what the configuration calls the text.
///
/// # Errors
/// When there is none, or one that cannot be read.
pub fn certificates(part: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err(MaterialError::new(part, "the file holds no certificate")),
        Ok(all) => Ok(all),
        Err(_) => Err(MaterialError::new(
            part,
            "the file holds a certificate that is not valid PEM",
        )),
    }
}

/// The first private key in a PEM text (PKCS#8, PKCS#1 or SEC1, not encrypted).
///
/// # Errors
/// When there is none, or one that cannot be read.
pub fn private_key(part: &'static str, pem: &str) -> Result<PrivateKeyDer<'static>, MaterialError> {
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err(MaterialError::new(
            part,
            "the key is encrypted: it must be stored without a passphrase",
        ));
    }
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| MaterialError::new(part, "the file holds no private key that can be read"))
}

fn roots(ca: Option<&str>) -> Result<RootCertStore, MaterialError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates("ca", ca)? {
            let added = roots.add(certificate);
            added.map_err(|_| MaterialError::new("ca", "the file holds a certificate that cannot be read"))?;
        }
        return Ok(roots);
    }
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(MaterialError::new(
            "ca",
            "is not set, and this machine has no trusted certificates of its own (package ca-certificates)",
        ));
    }
    Ok(roots)
}

/// Why a certificate and a key do not go together.
fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "is not the key of the certificate in cert".into(),
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) => {
            format!("the certificate in cert cannot be used: {why}; it must be of version 3 of X.509")
        }
        other => format!("certificate and key cannot be used: {other}"),
    }
}

/// What TLS has to say about an error, if it comes from there. A refusal of our certificate may be the answer to what
/// is sent first after the handshake.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(words(error));
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn words(error: &rustls::Error) -> String {
    let untrusted = |why: &str| format!("the certificate of the server is not trusted: {why}");
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => untrusted("unknown issuer"),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => untrusted("it has expired"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                untrusted("it is not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                untrusted("it is for another name")
            }
            other => untrusted(&other.to_string()),
        },
        rustls::Error::AlertReceived(alert) => refused(*alert),
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS".into(),
        other => format!("TLS failed: {other}"),
    }
}

/// What the other side says by an alert.
fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "the server asks for a client certificate".into(),
        AlertDescription::UnknownCA => "the server does not trust the issuer of our certificate".into(),
        AlertDescription::CertificateExpired => "the server says that our certificate has expired".into(),
        AlertDescription::HandshakeFailure => {
            "the server refused the handshake: it may ask for a client certificate".into()
        }
        other => format!("the server refused the TLS connection: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn own() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["x".to_owned()]).unwrap().self_signed(&key);
        (certificate.unwrap().pem(), key.serialize_pem())
    }

    fn fails(ca: Option<&str>, identity: Option<(&str, &str)>) -> (&'static str, String) {
        let error = Client::new(ca, identity).unwrap_err();
        (error.part(), error.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_shown() {
        let (cert, key) = own();
        let (_, other_key) = own();
        Client::new(Some(&cert), Some((&cert, &key))).unwrap();
        assert_eq!(fails(Some(&key), None), ("ca", "the file holds no certificate".into()));
        assert_eq!(
            fails(Some(&cert), Some((&key, &key))),
            ("cert", "the file holds no certificate".into())
        );
        let no_key = "the file holds no private key that can be read".to_owned();
        assert_eq!(fails(Some(&cert), Some((&cert, &cert))), ("key", no_key));
        assert_eq!(
            fails(Some(&cert), Some((&cert, &other_key))),
            ("key", "is not the key of the certificate in cert".into())
        );
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(fails(Some(&cert), Some((&cert, encrypted))).1.contains("encrypted"));
        let broken = "-----BEGIN CERTIFICATE-----\nhunter2!\n-----END CERTIFICATE-----\n";
        let (part, why) = fails(Some(broken), None);
        assert_eq!(part, "ca");
        assert!(!why.contains("hunter"), "{why}");
        let no_certificate = "-----BEGIN CERTIFICATE-----\naHVudGVy\n-----END CERTIFICATE-----\n";
        let unreadable = "the file holds a certificate that cannot be read".to_owned();
        assert_eq!(fails(Some(no_certificate), None), ("ca", unreadable));
    }

    /// Self-signed, without any extension, as `openssl x509 -req` makes it of itself.
    const OF_VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBFTCBvQIUBw4IGbmvgx6Lw224vdB+f44O/HAwCgYIKoZIzj0EAwIwDTELMAkG\n\
A1UEAwwCdjEwIBcNMjYxMTIxMDU0NzAwWhgPMjEyNjEwMjgwNTQ3MDBaMA0xCzAJ\n\
BgNVBAMMAnYxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQhrZueYfRt4yVkv0\n\
ak1T3sXkmts2/Ux15RwBSQczLrphIju9/bHAWwJPaS4r1F/ccnwKiPg3iLNMBPuE\n\
n4I18DAKBggqhkjOPQQDAgNHADBEAiBpDB3eScajd3rJe7vD3/eDGumR+PyHsfTW\n\
Yb2N+Y9jRgIgE/iCQHelats/um1lvEJBTodjJbnNZsYDMdsBu0/ReXY=\n\
-----END CERTIFICATE-----";

    #[test]
    fn a_certificate_of_version_1_is_told_in_words() {
        let (_, key) = own();
        let (part, why) = fails(None, Some((OF_VERSION_1, &key)));
        assert!(part == "key" && why.contains("it must be of version 3"), "{why}");
        assert!(!why.contains("Other("), "{why}");
    }

    #[test]
    fn an_error_of_tls_is_found_however_deep_it_lies() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(tls));
        assert_eq!(
            explain(&wrapped).unwrap(),
            "the certificate of the server is not trusted: unknown issuer"
        );
        assert_eq!(explain(&io::Error::other("something else")), None);
    }
}
