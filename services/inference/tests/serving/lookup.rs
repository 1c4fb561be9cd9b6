//! Models and variants are found by name, and what is not there is answered with what is.

use quadrille_registry::Role;

use crate::replica::*;

#[test]
fn models_are_found_by_name_and_version_and_what_is_not_there_is_told_with_what_is() {
    let mut replica = Replica::new(None);
    for version in [9, 10] {
        replica.log.push(version);
    }
    let routes = [
        ("stable", 9, LIVE),
        ("new", 10, canary(1)),
        ("idle", 9, Role::Live { weight: 0 }),
    ];
    replica.log.deploy(1, &routes);
    replica.turn();
    let version = |asked| {
        replica
            .serving
            .model("m", asked)
            .map(|it| it.id().version.clone())
    };
    assert_eq!(version(None).as_deref(), Ok("9"));
    assert_eq!(version(Some("9")).as_deref(), Ok("9"));
    assert_eq!(version(Some("10")).as_deref(), Ok("10"));
    let error = version(Some("11")).unwrap_err().to_string();
    assert!(
        error.contains("available: 10, 9") || error.contains("available: 9, 10"),
        "{error}"
    );
    let error = replica.serving.model("n", None).unwrap_err().to_string();
    assert_eq!(error, "no model \"n\" is served; available: m");
    let choose = |pipeline, variant| replica.serving.choose(pipeline, Some("k"), variant);
    assert_eq!(choose("ward", Some("idle")).expect("named").variant, "idle");
    let error = choose("ward", Some("old")).unwrap_err().to_string();
    assert!(error.ends_with("available: stable, new, idle"), "{error}");
    let error = choose("clinic", None).unwrap_err().to_string();
    assert!(error.ends_with("available: ward"), "{error}");
}

#[test]
fn a_model_without_a_version_is_the_one_that_a_live_route_in_effect_leads_to() {
    let mut replica = Replica::new(None);
    for version in 1..=5 {
        replica.log.push(version);
    }
    let version = |replica: &Replica| {
        let loaded = replica.serving.model("m", None).expect("served");
        loaded.id().version.clone()
    };
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(version(&replica), "2");
    // Of several live routes the highest version; what is tried beside them is not asked.
    let beside = [
        ("stable", 2, LIVE),
        ("other", 1, LIVE),
        ("new", 3, canary(10_000)),
        ("idle", 4, Role::Live { weight: 0 }),
        ("dark", 5, Role::Shadow),
    ];
    replica.log.deploy(2, &beside);
    replica.turn();
    assert_eq!(version(&replica), "2");
    // Loaded, but its deployment waits for another version.
    replica
        .log
        .deploy(3, &[("stable", 5, LIVE), ("lost", 9, canary(1))]);
    replica.turn();
    assert_eq!(replica.serving.pipeline_statuses()[0].serving, Some(2));
    assert_eq!(version(&replica), "2");
    // Pushed again with other content that is not to be had: the one that was deployed goes on.
    replica
        .log
        .deploy(4, &[("stable", 2, LIVE), ("dark", 5, Role::Shadow)]);
    replica.turn();
    replica.log.away(2);
    replica.log.push_files(2, renamed(2, 7));
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert_eq!(version(&replica), "2");
}
