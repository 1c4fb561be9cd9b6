# Everyday commands; `just` lists them. CI runs `.ci/run`, which is `just check` and `just test`.

set positional-arguments

_default:
    @just --list --unsorted

# Run everything in one process, on an embedded broker (or: just up --kafka)
up *args:
    cargo run --release -- up "$@"

# Format all code
fmt:
    cargo fmt --all

# What CI asks for before the tests
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# All tests, those on a real Kafka and PostgreSQL included (Java 17 and Maven)
test *args:
    cargo test --workspace "$@"

# The tests inside the crates: seconds, no Kafka
unit:
    cargo test --workspace --lib

# The crates' documentation; a warning is an error (the book is another thing: just book)
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Write the generated pages of the book anew, and check its links and examples
update-docs:
    QUADRILLE_UPDATE_DOCS=1 cargo test --test docs

# All that CI does
ci:
    .ci/run

# Licences, advisories, and who may depend on what (needs cargo-deny)
deny:
    cargo deny check

# The documentation as a book, in target/book (needs mdbook)
book:
    mdbook build docs

# Train the shipped pipeline's model into models/diabetes
train:
    cargo run --release -- train --pipeline pipelines/diabetes.toml --data data/pima.csv --algorithm random-forest --out models/diabetes

# Records per second and CPU of each stage, beside a bare copy loop, on a real Kafka
bench *args:
    cargo run --release -p bench-stages -- "$@"

# Build the images and start the whole system
compose-up:
    docker compose up --build --detach

# Stop it; volumes stay
compose-down:
    docker compose down
