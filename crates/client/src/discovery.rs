//! Who the replicas are, and which of them serve.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::discover::Change;

/// Names the addresses there are now.
pub type Resolve =
    Box<dyn Fn() -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// How often the name is looked up and every replica is asked for its health.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A replica that takes longer to say that it is well is not.
const HEALTHY_WITHIN: Duration = Duration::from_millis(300);
/// Consecutive bad answers after which a replica is not called any more; one good one brings it back.
const BAD_ANSWERS_MAX: u32 = 2;
/// So that a connection whose other end has gone without a word is noticed.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);

struct Replica {
    channel: Channel,
    bad_answers: u32,
    /// Calls go to it.
    serves: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Serving,
    /// It says so itself: it is starting or draining.
    NotServing,
    /// It does not answer.
    Silent,
}

type Changed = Result<Change<SocketAddr, Channel>, Infallible>;

/// Looks replicas up until the channel is dropped.
pub(crate) async fn run(resolve: Resolve, tell: mpsc::Sender<Changed>) {
    let mut replicas: BTreeMap<SocketAddr, Replica> = BTreeMap::new();
    loop {
        match resolve().await {
            // No answer, or an empty one, is DNS's trouble: who was there is there still.
            Ok(addresses) if !addresses.is_empty() => {
                for change in renew(&mut replicas, &addresses) {
                    if tell.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "replicas not looked up"),
        }
        let asked = replicas
            .values()
            .map(|replica| ask(replica.channel.clone()));
        let answers = join_all(asked).await;
        for change in judge(&mut replicas, &answers) {
            if tell.send(Ok(change)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = tell.closed() => return,
        }
    }
}

/// Adds who is new, not called before it has said that it serves; drops who has gone.
fn renew(
    replicas: &mut BTreeMap<SocketAddr, Replica>,
    addresses: &[SocketAddr],
) -> Vec<Change<SocketAddr, Channel>> {
    let mut changes = Vec::new();
    replicas.retain(|address, replica| {
        let there = addresses.contains(address);
        if !there && replica.serves {
            changes.push(Change::Remove(*address));
        }
        there
    });
    for address in addresses {
        replicas.entry(*address).or_insert_with(|| Replica {
            channel: connect(*address),
            bad_answers: 0,
            serves: false,
        });
    }
    changes
}

fn connect(address: SocketAddr) -> Channel {
    // An address is a valid authority.
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1"));
    endpoint
        .connect_timeout(HEALTHY_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(HEALTHY_WITHIN)
        .connect_lazy()
}

async fn ask(channel: Channel) -> Health {
    let mut client = HealthClient::new(channel);
    let asking = client.check(HealthCheckRequest::default());
    match tokio::time::timeout(HEALTHY_WITHIN, asking).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Health::Serving,
        Ok(Ok(_)) => Health::NotServing,
        // Without a health service it is well as long as it answers.
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Health::Serving,
        Ok(Err(_)) | Err(_) => Health::Silent,
    }
}

/// Who is to be called from now on, and who not.
fn judge(
    replicas: &mut BTreeMap<SocketAddr, Replica>,
    answers: &[Health],
) -> Vec<Change<SocketAddr, Channel>> {
    let serving = answers.contains(&Health::Serving);
    let mut changes = Vec::new();
    for ((address, replica), health) in replicas.iter_mut().zip(answers) {
        replica.bad_answers = match health {
            Health::Serving => 0,
            _ => replica.bad_answers.saturating_add(1),
        };
        let serves = match health {
            Health::Serving => true,
            // A word is a word; silence may be a pause. The last ones are kept: their errors say more.
            Health::NotServing => replica.serves && !serving,
            Health::Silent => replica.serves && (replica.bad_answers < BAD_ANSWERS_MAX || !serving),
        };
        match (replica.serves, serves) {
            (false, true) => changes.push(Change::Insert(*address, replica.channel.clone())),
            (true, false) => changes.push(Change::Remove(*address)),
            _ => {}
        }
        replica.serves = serves;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[u16]) -> Vec<SocketAddr> {
        let address = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        list.iter().map(address).collect()
    }

    fn told(changes: &[Change<SocketAddr, Channel>]) -> Vec<(char, u16)> {
        let one = |change: &Change<SocketAddr, Channel>| match change {
            Change::Insert(address, _) => ('+', address.port()),
            Change::Remove(address) => ('-', address.port()),
        };
        changes.iter().map(one).collect()
    }

    #[tokio::test]
    async fn a_replica_is_called_once_it_serves_and_not_after_it_says_no() {
        use Health::{NotServing, Serving, Silent};
        let mut replicas = BTreeMap::new();
        assert!(renew(&mut replicas, &addresses(&[1, 2])).is_empty());
        assert_eq!(
            told(&judge(&mut replicas, &[Serving, NotServing])),
            [('+', 1)]
        );
        assert_eq!(told(&judge(&mut replicas, &[Serving, Serving])), [('+', 2)]);
        assert_eq!(
            told(&judge(&mut replicas, &[NotServing, Serving])),
            [('-', 1)]
        );
        // One silence is borne, two are not.
        assert_eq!(told(&judge(&mut replicas, &[Serving, Silent])), [('+', 1)]);
        assert_eq!(told(&judge(&mut replicas, &[Serving, Silent])), [('-', 2)]);
    }

    #[tokio::test]
    async fn the_last_one_is_kept_whatever_it_says() {
        use Health::{NotServing, Serving};
        let mut replicas = BTreeMap::new();
        renew(&mut replicas, &addresses(&[1]));
        assert_eq!(told(&judge(&mut replicas, &[Serving])), [('+', 1)]);
        assert!(judge(&mut replicas, &[NotServing]).is_empty());
    }

    #[tokio::test]
    async fn who_leaves_dns_is_not_called_any_more() {
        let mut replicas = BTreeMap::new();
        renew(&mut replicas, &addresses(&[1, 2]));
        judge(&mut replicas, &[Health::Serving, Health::Serving]);
        assert_eq!(told(&renew(&mut replicas, &addresses(&[2]))), [('-', 1)]);
    }
}
