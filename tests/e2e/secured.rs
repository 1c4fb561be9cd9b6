//! TLS and SASL/SCRAM, by the settings that the README gives.

use std::path::Path;

use quadrille_local::kafka::secured::{PASSWORD, USER};
use quadrille_proto::Service;

use crate::harness::{
    PATIENCE, broker, eventually_or_show, http,
    oracle::{self, Load},
    process::{Launch, Process},
    world::World,
};

fn tls(certificate: &Path) -> String {
    format!(
        "security.protocol=SSL\nssl.ca.location={}",
        certificate.display()
    )
}

fn sasl(certificate: &Path, password: &str) -> String {
    format!(
        "security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.username={USER}
sasl.password={password}
ssl.ca.location={}",
        certificate.display()
    )
}

fn through(launch: Launch, servers: &str, properties: &str) -> Launch {
    launch
        .env("KAFKA_BOOTSTRAP_SERVERS", servers)
        .env("KAFKA_PROPERTIES", properties)
}

/// A service that is not let in says why, is not ready, and ends when it is told to.
#[track_caller]
fn says_why(process: &mut Process, why: &str) {
    eventually_or_show(&format!("it says {why:?}"), PATIENCE, || {
        let log = process.log();
        let ready = http::try_request(process.address(), "GET", "/readyz", &[], b"");
        match ready {
            Some((503, _)) if log.contains(why) => Ok(()),
            ready => Err(format!("{ready:?}\n{log}")),
        }
    });
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "{}", process.log());
}

#[test]
fn services_speak_tls_and_scram_and_say_why_they_are_not_let_in() {
    let mut options = broker::options();
    options.secured = true;
    let kafka = options.start().expect("Apache Kafka starts");
    let secured = kafka.secured().expect("secured listeners");
    let world = World::on(kafka.bootstrap_servers(), 2);
    let certificate = &secured.certificate;
    // Two of them each way.
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .zip([true, false, true, false])
        .map(|(stage, with_password)| {
            let launch = world.launch(*stage, "a");
            let launch = match with_password {
                true => through(launch, &secured.sasl, &sasl(certificate, PASSWORD)),
                false => through(launch, &secured.tls, &tls(certificate)),
            };
            launch.start()
        })
        .collect();
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    let load = Load {
        records: 500,
        keys: 20,
        rate: 500,
    };
    let sent = load.send(&world, |_| {});
    oracle::check(&world, services[3].address(), &sent);

    let refused = |instance: &str, servers: &str, properties: &str| {
        let launch = world.launch(Service::Feature, instance);
        through(launch, servers, properties).start()
    };
    // Side by side: each waits for an answer before it says why there is none.
    let mut wrong = refused("wrong", &secured.sasl, &sasl(certificate, "wrong"));
    // Not among those that this machine trusts.
    let mut untrusted = refused("untrusted", &secured.tls, "security.protocol=SSL");
    says_why(&mut wrong, "Authentication failed");
    says_why(&mut untrusted, "certificate verify failed");
}
