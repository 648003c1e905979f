//! The certificate that clients are shown: read at the start, and again when its files change.

use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use super::StartError;
use crate::config::ServerTls;
use crate::tls;

/// How often the files are looked at. Their content counts, not their times: it may come by a link that is turned.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The server side of TLS with what the files held when the configuration was read.
///
/// # Errors
/// When the two do not belong together, or cannot be used.
pub fn server_tls(tls: &ServerTls) -> Result<tls::Server, StartError> {
    tls::Server::new(tls.cert.content.expose(), tls.key.content.expose())
        .map_err(|error| StartError(format!("server.tls.{}: {error}", error.part())))
}

/// Keeps what is shown as the files say.
pub(super) struct Watch {
    server: tls::Server,
    files: ServerTls,
    /// What is shown.
    shown: Mark,
    /// What was seen last and cannot be shown.
    bad: Option<Bad>,
}

/// Tells contents apart without keeping them.
type Mark = [u8; 32];

struct Bad {
    seen: Result<Mark, String>,
    told: bool,
}

impl Watch {
    pub(super) fn new(server: tls::Server, files: &ServerTls) -> Self {
        Self {
            server,
            shown: mark(files.cert.content.expose(), files.key.content.expose()),
            files: files.clone(),
            bad: None,
        }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (cert, key) = (self.files.cert.path.clone(), self.files.key.path.clone());
            // A read that panics is none of this: the next one comes soon.
            if let Ok(read) = spawn_blocking(move || read(&cert, &key)).await {
                self.take(read);
            }
        }
    }

    fn take(&mut self, read: Result<(String, String), String>) {
        let seen = read
            .as_ref()
            .map(|(cert, key)| mark(cert, key))
            .map_err(String::to_owned);
        if seen.as_ref() == Ok(&self.shown) {
            if self.bad.take().is_some_and(|bad| bad.told) {
                tracing::info!("the files of server.tls hold what is shown again");
            }
            return;
        }
        let replaced = read.and_then(|(cert, key)| {
            let replaced = self.server.replace(&cert, &key);
            replaced.map_err(|error| format!("server.tls.{}: {error}", error.part()))
        });
        match (replaced, seen) {
            (Ok(()), Ok(mark)) => {
                (self.shown, self.bad) = (mark, None);
                tracing::info!("the certificate of server.tls was replaced");
            }
            (Err(why), seen) => self.complain(&why, seen),
            (Ok(()), Err(_)) => {}
        }
    }

    /// Tells what is wrong once it is so for two looks: between the writing of one file and of the other it may be.
    fn complain(&mut self, why: &str, seen: Result<Mark, String>) {
        match &mut self.bad {
            Some(bad) if bad.seen == seen => {
                if !bad.told {
                    tracing::error!(why, "the certificate was not replaced: the old one is still shown");
                }
                bad.told = true;
            }
            bad => *bad = Some(Bad { seen, told: false }),
        }
    }
}

fn read(cert: &Path, key: &Path) -> Result<(String, String), String> {
    let text = |part: &str, path: &Path| {
        std::fs::read_to_string(path).map_err(|error| format!("server.tls.{part}: cannot read the file: {error}"))
    };
    Ok((text("cert", cert)?, text("key", key)?))
}

fn mark(cert: &str, key: &str) -> Mark {
    let mut hash = Sha256::new();
    for text in [cert, key] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::{PemFile, Secret};

    fn own() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["x".to_owned()]).unwrap().self_signed(&key);
        (certificate.unwrap().pem(), key.serialize_pem())
    }

    fn watch(cert: &str, key: &str) -> Watch {
        let file = |content: &str| PemFile {
            path: PathBuf::new(),
            content: Secret::from(content.to_owned()),
        };
        let files = ServerTls {
            cert: file(cert),
            key: file(key),
        };
        Watch::new(server_tls(&files).unwrap(), &files)
    }

    #[test]
    fn a_bad_pair_is_told_once_and_only_when_it_stays() {
        let ((cert, key), (new_cert, new_key)) = (own(), own());
        let mut watch = watch(&cert, &key);
        let shown = watch.shown;
        let half = || Ok((new_cert.clone(), key.clone()));
        watch.take(Ok((cert, key.clone())));
        assert!(watch.bad.is_none());
        watch.take(half());
        assert!(
            watch.bad.as_ref().is_some_and(|bad| !bad.told),
            "it may be half written"
        );
        watch.take(half());
        assert!(watch.bad.as_ref().is_some_and(|bad| bad.told));
        assert_eq!(watch.shown, shown);
        watch.take(Ok((new_cert.clone(), new_key.clone())));
        assert!(watch.bad.is_none() && watch.shown != shown);
        watch.take(Err("gone".to_owned()));
        watch.take(Ok((new_cert, new_key)));
        assert!(watch.bad.is_none(), "the files came back as they were");
    }

    #[test]
    fn a_pair_that_does_not_fit_keeps_the_bridge_from_starting() {
        let ((cert, _), (_, key)) = (own(), own());
        let file = |content: String| PemFile {
            path: PathBuf::new(),
            content: Secret::from(content),
        };
        let files = ServerTls {
            cert: file(cert),
            key: file(key),
        };
        let error = server_tls(&files).unwrap_err();
        assert_eq!(
            error.to_string(),
            "server.tls.key: is not the key of the certificate in cert"
        );
    }
}
