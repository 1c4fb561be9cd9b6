//! Packages on disk: what was saved is what is loaded, and damage is noticed and named.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{identity, score, tiny, tiny_package};
use proptest::prelude::*;
use quadrille_model::package::{
    ARTEFACT_BYTES_MAX, Digest, Error, Labels, MANIFEST_BYTES_MAX, Overwrite,
};
use quadrille_model::train::{Algorithm, TrainOptions, train};
use quadrille_model::{Outputs, Package, Quantity};

const BOTH: [Algorithm; 2] = [Algorithm::RandomForest, Algorithm::LogisticRegression];

/// A saved forest in a directory that lives as long as the guard.
fn saved() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("model");
    tiny_package(Algorithm::RandomForest)
        .save(&place, Overwrite::Refuse)
        .unwrap();
    (dir, place)
}

fn complaint(place: &Path) -> String {
    Package::load(place).unwrap_err().to_string()
}

fn change_manifest(place: &Path, from: &str, to: &str) {
    let path = place.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in\n{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn what_was_saved_is_what_is_loaded() {
    for algorithm in BOTH {
        let package = tiny_package(algorithm);
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("deep/down/model");
        package.save(&place, Overwrite::Refuse).unwrap();
        let loaded = Package::load(&place).unwrap();
        assert_eq!(loaded.manifest(), package.manifest());
        assert_eq!(loaded.hash(), package.hash());
        assert_eq!(loaded.model().inputs(), ["a", "b", "c"]);
        assert_eq!(score(&loaded, &tiny().rows), score(&package, &tiny().rows));
    }
}

#[test]
fn batches_of_any_size_give_each_row_the_same_answer() {
    let rows = tiny().rows.repeat(9);
    for algorithm in BOTH {
        let package = tiny_package(algorithm);
        let whole = score(&package, &rows);
        let one_by_one: Vec<f64> = rows
            .chunks(3)
            .flat_map(|row| score(&package, row))
            .collect();
        assert_eq!(whole, one_by_one);
        assert_eq!(score(&package, &[]), [0.0; 0]);
    }
}

#[test]
#[should_panic(expected = "not a whole number of rows")]
fn half_a_row_is_the_callers_mistake() {
    score(&tiny_package(Algorithm::RandomForest), &[1.0, 2.0]);
}

#[test]
fn the_hash_is_sha256_over_manifest_and_artefact() {
    let package = tiny_package(Algorithm::RandomForest);
    let all = [package.manifest_bytes(), package.artefact_bytes()].concat();
    assert_eq!(package.hash(), Digest::of(&all).0);
}

#[test]
fn an_existing_package_is_replaced_only_on_request() {
    let (dir, place) = saved();
    let other = tiny_package(Algorithm::LogisticRegression);
    let before = Package::load(&place).unwrap().hash();
    assert!(
        matches!(other.save(&place, Overwrite::Refuse), Err(Error::Exists(path)) if path == place)
    );
    assert_eq!(Package::load(&place).unwrap().hash(), before);
    other.save(&place, Overwrite::Replace).unwrap();
    assert_eq!(Package::load(&place).unwrap().hash(), other.hash());
    assert_eq!(
        entries(dir.path()),
        ["model"],
        "nothing may be left beside it"
    );
}

#[test]
fn what_is_not_a_package_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("letters");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("dear.txt"), "important").unwrap();
    let error = tiny_package(Algorithm::RandomForest).save(&place, Overwrite::Replace);
    assert!(matches!(error, Err(Error::NotAPackage(_))));
    assert_eq!(entries(&place), ["dear.txt"]);
    let nowhere = tiny_package(Algorithm::RandomForest).save(Path::new("/"), Overwrite::Replace);
    assert!(matches!(nowhere, Err(Error::Place(_))));
}

#[test]
fn debugging_a_package_prints_what_it_is_and_not_its_numbers() {
    for algorithm in BOTH {
        let text = format!("{:?}", tiny_package(algorithm));
        assert!(
            text.contains(algorithm.backend().name()) && text.len() < 400,
            "{text}"
        );
    }
}

#[test]
fn a_missing_package_or_file_is_named() {
    let (_dir, place) = saved();
    fs::remove_file(place.join("forest.bin")).unwrap();
    assert!(complaint(&place).contains("forest.bin"));
    fs::create_dir(place.join("forest.bin")).unwrap();
    assert!(complaint(&place).contains("not a regular file"));
    assert!(complaint(&place.join("nowhere")).contains("nowhere/manifest.json"));
}

#[test]
fn a_cut_or_changed_artefact_is_noticed() {
    let (_dir, place) = saved();
    let path = place.join("forest.bin");
    let mut bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(complaint(&place).contains("cut off"));
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(complaint(&place).contains("changed after it was packed"));
}

#[test]
fn oversized_files_are_refused_unread() {
    let (_dir, place) = saved();
    let grow = |file: &str, bytes| {
        fs::File::options()
            .write(true)
            .open(place.join(file))
            .unwrap()
            .set_len(bytes)
            .unwrap()
    };
    grow("forest.bin", ARTEFACT_BYTES_MAX + 1);
    assert!(complaint(&place).contains("the artefact is larger than 268435456 bytes"));
    grow("manifest.json", MANIFEST_BYTES_MAX + 1);
    assert!(complaint(&place).contains("the manifest is larger"));
}

#[test]
fn a_damaged_manifest_is_explained() {
    let cases = [
        (
            "\"format\": 2",
            "\"format\": 3",
            "format 3; this version reads 1 to 2",
        ),
        (
            "\"name\"",
            "\"extra\": 1, \"name\"",
            "unknown field `extra`",
        ),
        (
            "\"algorithm\": \"random-forest\"",
            "\"algorithm\": \"boosting\"",
            "unknown variant `boosting`",
        ),
        (
            "\"forest.bin\"",
            "\"../forest.bin\"",
            "artefact.file is \"../forest.bin\"",
        ),
        ("\"forest.bin\"", "\"\"", "artefact.file is \"\""),
        (
            "\"forest.bin\"",
            "\"manifest.json\"",
            "artefact.file is \"manifest.json\"",
        ),
        (
            "2026-01-31T12:00:00Z",
            "yesterday",
            "created_at is \"yesterday\"; it must be RFC 3339",
        ),
        ("\"b\",", "\"a\",", "input \"a\" is there twice"),
        (
            "\"b\",",
            "",
            "there are 2 inputs, but 3 for the preprocessing",
        ),
        ("\"neg\"", "\"pos\"", "another word than outputs.negative"),
        (
            "\"backend\": \"forest\"",
            "\"backend\": \"logistic\"",
            "not a logistic regression",
        ),
        (
            "\"backend\": \"forest\"",
            "\"backend\": \"onnx\"",
            "not an ONNX file",
        ),
        (
            "\"backend\"",
            "\"onnx\": {}, \"backend\"",
            "settings for ONNX, but its backend is forest",
        ),
        (
            "\"task\": \"binary\",",
            "\"task\": \"classes\",",
            "unknown field `negative`",
        ),
        (
            "\"tolerance\": 1e-9",
            "\"tolerance\": -1",
            "the tolerance is -1",
        ),
    ];
    for (from, to, expected) in cases {
        let (_dir, place) = saved();
        change_manifest(&place, from, to);
        let complaint = complaint(&place);
        assert!(
            complaint.contains(expected),
            "{expected:?} is not in {complaint:?}"
        );
    }
}

#[test]
fn logistic_regression_without_scales_is_refused() {
    let package = tiny_package(Algorithm::LogisticRegression);
    let mut manifest = package.manifest().clone();
    manifest.preprocess.as_mut().unwrap().columns[1].scale = None;
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let error = Package::from_bytes(bytes, package.artefact_bytes().to_vec()).unwrap_err();
    assert!(error.to_string().contains("needs a scale for every input"));
}

#[test]
fn an_identity_that_no_manifest_can_hold_is_refused() {
    let options = TrainOptions::new(Algorithm::LogisticRegression);
    let trained = train(&tiny(), &options, &mut |_| ()).unwrap();
    let error = trained.into_package(identity("../evil")).unwrap_err();
    assert!(matches!(error, Error::Text { field: "name", .. }));
}

#[test]
fn a_difference_of_inputs_is_spelt_out() {
    let package = tiny_package(Algorithm::RandomForest);
    let check = |inputs: &[&str]| {
        let inputs: Vec<String> = inputs.iter().map(|&input| input.to_owned()).collect();
        package
            .check_inputs(&inputs)
            .map_err(|error| error.to_string())
    };
    const START: &str = "the model random-forest 1 wants other inputs: ";
    assert_eq!(check(&["a", "b", "c"]), Ok(()));
    assert_eq!(
        check(&["a", "d"]),
        Err(format!("{START}missing b, c; not known to it d"))
    );
    assert_eq!(
        check(&["a", "b", "c", "c"]),
        Err(format!("{START}not known to it c"))
    );
    assert_eq!(
        check(&["a", "c", "b"]),
        Err(format!(
            "{START}the order differs: at place 2 it wants b, not c"
        ))
    );
}

#[test]
fn training_records_rows_and_a_package_that_answers_otherwise_is_refused() {
    let package = tiny_package(Algorithm::RandomForest);
    let warm_up = package.manifest().warm_up.as_ref().unwrap();
    assert_eq!(warm_up.rows.len(), 32);
    package.warm_up().unwrap();
    let mut manifest = package.manifest().clone();
    manifest.warm_up.as_mut().unwrap().rows[3].outputs[0] += 1e-6;
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let error = Package::from_bytes(bytes, package.artefact_bytes().to_vec()).unwrap_err();
    assert!(
        matches!(&error, Error::WarmUp(off) if off.row == 4),
        "{error}"
    );
}

#[test]
fn a_package_of_format_1_is_read_and_saved_as_it_is() {
    let place: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "format-1"]
        .iter()
        .collect();
    let package = Package::load(&place).unwrap();
    assert_eq!(package.manifest().format, 1);
    assert_eq!(package.manifest().outputs.names(), ["pos"]);
    assert!(package.manifest().warm_up.is_none());
    assert_eq!(
        package.manifest_bytes(),
        fs::read(place.join("manifest.json")).unwrap()
    );
}

#[test]
fn a_difference_of_outputs_is_spelt_out() {
    let package = tiny_package(Algorithm::RandomForest);
    let other = Labels {
        negative: "well".to_owned(),
        positive: "ill".to_owned(),
    };
    package.check_outputs(&Outputs::Binary(other)).unwrap();
    for (negative, positive) in [("pos", "neg"), ("pos", "other"), ("other", "neg")] {
        let inverted = Labels {
            negative: negative.to_owned(),
            positive: positive.to_owned(),
        };
        let error = package.check_outputs(&Outputs::Binary(inverted));
        assert!(matches!(error, Err(Error::Inverted { .. })), "{error:?}");
    }
    let classes = Outputs::Classes(vec!["neg".to_owned(), "pos".to_owned()]);
    let error = package.check_outputs(&classes).unwrap_err().to_string();
    assert_eq!(
        error,
        "the model random-forest 1 gives the probability of one of two classes; wanted: the probabilities of several classes"
    );
}

#[test]
fn contributions_sum_to_the_probability_or_its_log_odds() {
    for algorithm in BOTH {
        let package = tiny_package(algorithm);
        let model = package.model();
        for row in tiny().rows.chunks(3) {
            let found = model.contributions(row).unwrap();
            let probability = score(&package, row)[0];
            let total = found.outputs[0].total();
            let said = match found.of {
                Quantity::LogOdds => 1.0 / (1.0 + (-total).exp()),
                _ => total,
            };
            assert!(
                (said - probability).abs() < 1e-12,
                "{said} is not {probability}"
            );
        }
    }
}

#[test]
fn a_missing_input_of_a_linear_model_is_taken_at_its_fill() {
    let package = tiny_package(Algorithm::LogisticRegression);
    let model = package.model();
    let fill = package.manifest().preprocess.as_ref().unwrap().columns[1].fill;
    let filled = model.contributions(&[1.0, fill, 3.0]).unwrap();
    assert_eq!(model.contributions(&[1.0, f64::NAN, 3.0]).unwrap(), filled);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_package_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        logistic: bool,
    ) {
        let package = tiny_package(BOTH[usize::from(logistic)]);
        let mut artefact = package.artefact_bytes().to_vec();
        for (at, byte) in &changes {
            let at = at.index(artefact.len());
            artefact[at] = *byte;
        }
        // With a hash that fits, so that the artefact itself has to be checked.
        let mut manifest = package.manifest().clone();
        manifest.warm_up = None;
        manifest.artefact.sha256 = Digest::of(&artefact);
        if let Ok(package) = Package::from_bytes(serde_json::to_vec(&manifest).unwrap(), artefact) {
            let rows = [f64::MAX, f64::MIN, f64::NAN, 0.0, f64::INFINITY, -0.0];
            prop_assert!(score(&package, &rows).iter().all(|p| (0.0..=1.0).contains(p)));
        }

        let mut manifest = package.manifest_bytes().to_vec();
        for (at, byte) in &changes {
            let at = at.index(manifest.len());
            manifest[at] = *byte;
        }
        let _ = Package::from_bytes(manifest, package.artefact_bytes().to_vec());
    }
}
