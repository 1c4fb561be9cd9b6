//! The life of a local Kafka and PostgreSQL: they start, answer, restart with their data, and are gone
//! with their owner, in whatever way it goes. Needs `java` and, the first time, `mvn`.

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use quadrille_local::kafka::DataDir;
use quadrille_local::{Error, Kafka, Postgres};

use support::{create_topic, eventually, is_alive, process_group, query, topics};

#[test]
fn kafka_answers_keeps_its_data_across_stop_and_kill_and_is_gone_when_dropped() {
    let mut kafka = Kafka::options().start().unwrap();
    let address = kafka.bootstrap_servers();
    let folder = kafka.log().parent().unwrap().to_owned();
    create_topic(&kafka, "first");

    kafka.stop();
    assert_eq!(kafka.pid(), None);
    kafka.restart().unwrap();
    assert_eq!(kafka.bootstrap_servers(), address);
    create_topic(&kafka, "second");

    kafka.kill();
    kafka.restart().unwrap();
    assert_eq!(kafka.bootstrap_servers(), address);
    assert_eq!(topics(&kafka), ["first", "second"]);

    let pid = kafka.pid().unwrap();
    assert_eq!(process_group(pid), pid, "Ctrl-C must not reach the broker");
    drop(kafka);
    assert!(!is_alive(pid));
    assert!(!folder.exists(), "the temporary folder is left behind");
}

#[test]
fn kafka_keeps_a_named_folder_for_the_next_broker() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a broker's data");
    let start = || {
        let mut options = Kafka::options();
        options.data_dir = DataDir::Kept(folder.clone());
        options.partitions_default = Some(3);
        options.start().unwrap()
    };
    let kafka = start();
    create_topic(&kafka, "kept");
    let first_port = kafka.bootstrap_servers();
    drop(kafka);
    let kafka = start();
    assert_ne!(kafka.bootstrap_servers(), first_port);
    assert_eq!(topics(&kafka), ["kept"]);
}

#[test]
fn kafka_says_why_it_does_not_start() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut options = Kafka::options();
    options.port = Some(taken.local_addr().unwrap().port());
    assert!(matches!(options.start(), Err(Error::PortTaken { .. })));

    let mut options = Kafka::options();
    options.extra = vec![("num.io.threads".into(), "many".into())];
    let error = options.start().unwrap_err().to_string();
    assert!(error.contains("num.io.threads"), "{error}");
}

#[test]
fn postgres_answers_keeps_its_data_across_stop_and_kill_and_is_gone_when_dropped() {
    let mut postgres = Postgres::start().unwrap();
    let url = postgres.url().to_owned();
    assert!(url.starts_with("postgres://postgres@127.0.0.1:") && url.ends_with("/postgres"));
    query(&url, "create table seen (n int)");
    query(&url, "insert into seen values (1)");

    postgres.stop();
    assert_eq!(postgres.pid(), None);
    postgres.restart().unwrap();
    query(&url, "insert into seen values (2)");
    postgres.kill();
    postgres.restart().unwrap();
    assert_eq!(postgres.url(), url);
    assert_eq!(query(&url, "select sum(n) from seen"), ["3"]);

    let pid = postgres.pid().unwrap();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    drop(postgres);
    assert!(!is_alive(pid));
    assert!(!folder.exists(), "the temporary folder is left behind");
}

#[test]
fn servers_started_at_the_same_time_do_not_clash() {
    let kafka = || thread::spawn(|| Kafka::options().start().unwrap());
    let postgres = || thread::spawn(|| Postgres::start().unwrap());
    let (kafkas, databases) = ([kafka(), kafka()], [postgres(), postgres(), postgres()]);
    let kafkas = kafkas.map(|started| started.join().unwrap());
    let databases = databases.map(|started| started.join().unwrap());
    create_topic(&kafkas[0], "only-here");
    assert_eq!(topics(&kafkas[0]), ["only-here"]);
    assert!(topics(&kafkas[1]).is_empty());
    for (number, database) in databases.iter().enumerate() {
        query(database.url(), &format!("create table t{number} (n int)"));
    }
    for database in &databases {
        let tables = query(
            database.url(),
            "select count(*) from pg_tables where schemaname = 'public'",
        );
        assert_eq!(tables, ["1"]);
    }
}

/// Where the doomed owner writes what it started.
const REPORT: &str = "QUADRILLE_LOCAL_TEST_REPORT";

#[test]
fn servers_go_with_an_owner_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_that_waits_to_be_killed"])
        .env(REPORT, &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = eventually("the owner starts its servers", || {
        fs::read_to_string(&report).ok()
    });
    let started: Vec<&str> = started.lines().collect();
    let [pids, folders] = [&started[..2], &started[2..]];
    let is_running = |pid: &&str| is_alive(pid.parse().unwrap());
    assert!(pids.iter().all(is_running));
    assert!(folders.iter().all(|folder| Path::new(folder).is_dir()));

    owner.kill().unwrap(); // SIGKILL
    owner.wait().unwrap();
    eventually("the servers are gone", || {
        (!pids.iter().any(is_running)).then_some(())
    });
    eventually("the temporary folders are gone", || {
        let left = folders.iter().any(|folder| Path::new(folder).exists());
        (!left).then_some(())
    });
}

/// Does nothing but in the process that the test above starts.
#[test]
fn owner_that_waits_to_be_killed() {
    let Some(report) = std::env::var_os(REPORT) else {
        return;
    };
    let kafka = Kafka::options().start().unwrap();
    let postgres = Postgres::start().unwrap();
    let pids = [kafka.pid().unwrap(), postgres.pid().unwrap()];
    let folders = pids.map(|pid| fs::read_link(format!("/proc/{pid}/cwd")).unwrap());
    let lines = format!(
        "{}\n{}\n{}\n{}\n",
        pids[0],
        pids[1],
        folders[0].display(),
        folders[1].display()
    );
    let report = Path::new(&report);
    let unfinished = report.with_extension("new");
    fs::write(&unfinished, lines).unwrap();
    fs::rename(&unfinished, report).unwrap();
    loop {
        thread::park();
    }
}
