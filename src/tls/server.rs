//! The server side: the certificate that is shown to clients, and may be another one from one moment to the next.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{MaterialError, certificates, private_key, provider, unfit};

/// What clients may choose from by ALPN (RFC 7301), the first that they know too.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, HTTP1];

/// The name of HTTP/1.1 in ALPN (RFC 7301 §6).
pub const HTTP1: &[u8] = b"http/1.1";

/// The name of HTTP/2 in ALPN (RFC 9113 §3.2).
pub const HTTP2: &[u8] = b"h2";

/// The server side: who we are. Cheap to clone; clones share the certificate.
#[derive(Clone)]
pub struct Server {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::Server")
    }
}

/// The certificate that is shown from now on, with its key.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn show(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Server {
    /// Shows the certificate in `cert`, with its chain, whose private key is in `key`; both are PEM texts. Offers
    /// HTTP/2 and HTTP/1.1 by ALPN. Clients need no certificate. Sessions are resumed by tickets under a key of this process.
    ///
    /// # Errors
    /// When one of them is not what it should be, or they do not belong together.
    pub fn new(cert: &str, key: &str) -> Result<Self, MaterialError> {
        let failed = |error: rustls::Error| MaterialError::new("cert", error.to_string());
        let shown = Arc::new(Shown(RwLock::new(Arc::new(identity(cert, key)?))));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = Ticketer::new().map_err(failed)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            shown,
        })
    }

    /// Shows another certificate to those who come from now on.
    ///
    /// # Errors
    /// As [`Self::new`]; the one that is shown stays.
    pub fn replace(&self, cert: &str, key: &str) -> Result<(), MaterialError> {
        self.shown.show(identity(cert, key)?);
        Ok(())
    }

    /// Shakes hands with the client at the other end of `stream`. There is no deadline: the caller sets one.
    ///
    /// # Errors
    /// When the two do not come together, or the client breaks it off.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }
}

fn identity(cert: &str, key: &str) -> Result<CertifiedKey, MaterialError> {
    let (chain, key) = (certificates("cert", cert)?, private_key("key", key)?);
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| MaterialError::new("key", unfit(&error)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::Client;
    use super::*;

    struct Pem {
        cert: String,
        key: String,
    }

    fn own(name: &str) -> Pem {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key);
        Pem {
            cert: certificate.unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Whether a client that trusts `trusted` alone comes to speak with the server.
    async fn speaks(server: &Server, trusted: &Pem, name: &str) -> Result<(), String> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = server.clone();
        let serving = tokio::spawn(async move {
            let mut stream = server.accept(ours).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        });
        let client = Client::new(Some(&trusted.cert), None).unwrap();
        let mut stream = client.connect(name, theirs).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "x");
        serving.await.unwrap().unwrap();
        Ok(())
    }

    #[tokio::test]
    async fn the_certificate_that_is_shown_can_be_replaced_and_a_bad_one_leaves_it() {
        let (old, new) = (own("old.test"), own("new.test"));
        let server = Server::new(&old.cert, &old.key).unwrap();
        speaks(&server, &old, "old.test").await.unwrap();
        let error = server.replace(&new.cert, &old.key).unwrap_err();
        assert_eq!(
            (error.part(), error.to_string()),
            ("key", "is not the key of the certificate in cert".to_owned())
        );
        server.replace("", &new.key).unwrap_err();
        server.replace(&new.cert, "").unwrap_err();
        speaks(&server, &old, "old.test").await.unwrap();
        server.replace(&new.cert, &new.key).unwrap();
        speaks(&server, &new, "new.test").await.unwrap();
        speaks(&server, &old, "old.test").await.unwrap_err();
    }

    #[test]
    fn what_cannot_be_shown_is_told_by_its_name() {
        let (one, other) = (own("a.test"), own("b.test"));
        for (cert, key, part) in [
            (&one.key, &one.key, "cert"),
            (&one.cert, &one.cert, "key"),
            (&one.cert, &other.key, "key"),
        ] {
            let error = Server::new(cert, key).unwrap_err();
            assert_eq!(error.part(), part, "{error}");
            assert!(!error.to_string().contains("BEGIN"), "{error}");
        }
    }
}
