//! A backend that is spoken to over TLS: who it must be, who we are, and the same rules as in clear.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::tls;

/// An authority of the test's own.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
pub(super) type Identity = (String, String);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Another authority of the same name would only be found to have signed badly.
        let name = uuid::Uuid::new_v4().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn signs(&self, name: &str, years: (i32, i32)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        (pem, key.serialize_pem())
    }

    pub(super) fn good(&self) -> Identity {
        self.signs("127.0.0.1", (2020, 2120))
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }
}

/// How a backend shows itself; `asks`: it wants a certificate of this authority from its clients.
pub(super) fn acceptor((cert, key): &Identity, asks: Option<&Authority>) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(tls::certificates("ca", &authority.pem).unwrap().remove(0))
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder
        .with_single_cert(
            tls::certificates("cert", cert).unwrap(),
            tls::private_key("key", key).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The same, with these protocols for its clients to choose from by ALPN, or none.
pub(super) fn offering(acceptor: &TlsAcceptor, protocols: &[&[u8]]) -> TlsAcceptor {
    let mut config = ServerConfig::clone(acceptor.config());
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Runs `serve` for each connection that shakes hands.
async fn tls_backend<F, S>(acceptor: TlsAcceptor, serve: F) -> SocketAddr
where
    F: Fn(TlsStream<TcpStream>, usize) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let shaken = Count::default();
    backend(move |peer, _| {
        let (acceptor, serve, shaken) = (acceptor.clone(), serve.clone(), shaken.clone());
        async move {
            if let Ok(stream) = acceptor.accept(peer.into_inner()).await {
                serve(stream, shaken.add(1) - 1).await;
            }
        }
    })
    .await
}

/// TLS before a backend that speaks in clear.
async fn before(acceptor: TlsAcceptor, clear: SocketAddr) -> SocketAddr {
    tls_backend(acceptor, move |mut stream, _| async move {
        let mut inner = TcpStream::connect(clear).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
    })
    .await
}

fn client(address: SocketAddr, ca: &Authority, identity: Option<&Identity>) -> Upstream {
    let identity = identity.map(|(cert, key)| (cert.as_str(), key.as_str()));
    Upstream::new(UpstreamOptions {
        tls: Some(tls::Client::new(Some(&ca.pem), identity).unwrap()),
        ..options(address)
    })
}

#[tokio::test]
async fn requests_go_over_one_connection_to_a_backend_that_is_who_it_must_be() {
    let ca = Authority::new();
    let address = before(acceptor(&ca.good(), None), answering(OK).await).await;
    let upstream = client(address, &ca, None);
    for round in 0..20 {
        let body = vec![b'x'; round * 10_000];
        let response = upstream.send(post(body), PATIENCE).await.unwrap();
        assert_eq!(text(response).await, "ok");
    }
    assert_eq!(upstream.stats().connects, 1);
    upstream.probe().await.unwrap();
}

#[tokio::test]
async fn a_backend_that_is_not_who_it_must_be_gets_nothing() {
    let (ca, other) = (Authority::new(), Authority::new());
    for (identity, why) in [
        (
            other.good(),
            "the certificate of the server is not trusted: unknown issuer",
        ),
        (ca.signs("127.0.0.2", (2020, 2120)), "it is for another name"),
        (ca.signs("127.0.0.1", (2020, 2021)), "it has expired"),
        (ca.signs("127.0.0.1", (2110, 2120)), "it is not valid yet"),
    ] {
        let heard = Count::default();
        let counts = heard.clone();
        let address = tls_backend(acceptor(&identity, None), move |_, _| {
            counts.add(1);
            async {}
        })
        .await;
        let upstream = client(address, &ca, None);
        let error = upstream.send(get("/"), PATIENCE).await.unwrap_err();
        assert!(
            matches!(&error, UpstreamError::Connect(text) if text.contains(why)),
            "{error:?}"
        );
        let probed = upstream.probe().await.unwrap_err();
        assert!(probed.to_string().contains(why), "{probed}");
        assert_eq!(heard.get(), 0, "{why}");
    }
}

#[tokio::test]
async fn a_backend_in_clear_or_silent_is_told_within_the_connect_timeout() {
    let ca = Authority::new();
    let clear = backend(|mut peer, _| async move {
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let error = client(clear, &ca, None).send(get("/"), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");

    let silent = backend(|peer, _| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .await;
    let mut options = options(silent);
    options.connect_timeout = Duration::from_millis(100);
    options.tls = Some(tls::Client::new(Some(&ca.pem), None).unwrap());
    let error = Upstream::new(options).send(get("/"), PATIENCE).await.unwrap_err();
    assert!(
        error.to_string().contains("the TLS handshake was not over within"),
        "{error}"
    );
    assert!(!error.arrived());
}

#[tokio::test]
async fn a_backend_that_asks_for_a_certificate_gets_ours() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let ours = clients.signs("bridge", (2020, 2120));
    let address = before(acceptor(&ca.good(), Some(&clients)), answering(OK).await).await;
    let response = client(address, &ca, Some(&ours)).send(get("/"), PATIENCE).await;
    assert_eq!(text(response.unwrap()).await, "ok");

    let error = client(address, &ca, None).send(get("/"), PATIENCE).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

/// Answers each request of the first connection, then closes it as `close` does; the next connection goes on.
async fn closing_after_one(acceptor: TlsAcceptor, closed: Count, orderly: bool) -> SocketAddr {
    tls_backend(acceptor, move |stream, index| {
        let closed = closed.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                if line.ends_with("\r\n\r\n") {
                    stream.write_all(OK).await.unwrap();
                    stream.flush().await.unwrap();
                    line.clear();
                    if index == 0 {
                        break;
                    }
                }
            }
            if orderly {
                let _ = stream.shutdown().await;
            }
            drop(stream);
            closed.add(1);
        }
    })
    .await
}

#[tokio::test]
async fn f4_a_connection_that_the_backend_has_closed_costs_no_request() {
    for orderly in [true, false] {
        let ca = Authority::new();
        for _ in 0..20 {
            let closed = Count::default();
            let address = closing_after_one(acceptor(&ca.good(), None), closed.clone(), orderly).await;
            let upstream = client(address, &ca, None);
            assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
            // In turn, so that no task of the bridge's has seen the end before the next request.
            while closed.get() == 0 {
                tokio::task::yield_now().await;
            }
            let response = upstream.send(get("/"), PATIENCE).await;
            assert_eq!(text(response.unwrap()).await, "ok", "orderly: {orderly}");
            assert_eq!(upstream.stats().connects, 2);
        }
    }
}

#[tokio::test]
async fn f4_a_request_that_has_been_written_is_not_sent_again() {
    let ca = Authority::new();
    let heard = Count::default();
    let counts = heard.clone();
    let address = tls_backend(acceptor(&ca.good(), None), move |stream, index| {
        let counts = counts.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while stream.read_line(&mut head).await.unwrap_or(0) > 0 {
                if head.ends_with("\r\n\r\n") {
                    if counts.add(1) == 2 {
                        return;
                    }
                    head.clear();
                    stream.write_all(OK).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
            assert_eq!(index, 0);
        }
    })
    .await;
    let upstream = client(address, &ca, None);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    let error = upstream.send(get("/"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Reset { arrived: true, .. }), "{error:?}");
    assert_eq!(heard.get(), 2);
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_backends_word_alone() {
    for orderly in [true, false] {
        let ca = Authority::new();
        let address = tls_backend(acceptor(&ca.good(), None), move |mut stream, _| async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
            stream.flush().await.unwrap();
            if orderly {
                stream.shutdown().await.unwrap();
            }
        })
        .await;
        let response = client(address, &ca, None).send(get("/"), PATIENCE).await.unwrap();
        let body = response.into_body().collect().await;
        assert_eq!(body.is_ok(), orderly);
    }
}

#[tokio::test]
async fn h4_an_upgraded_connection_goes_over_tls_too() {
    let ca = Authority::new();
    let address = before(acceptor(&ca.good(), None), super::tunnel::echo().await).await;
    super::tunnel::is_joined_both_ways(client(address, &ca, None)).await;
}
