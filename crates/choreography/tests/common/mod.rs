//! What the test programs of this crate share.

use quadrille_choreography::{Cluster, Publication, Publisher};

/// Publishes records one after another, each confirmed before the next.
pub fn publish<'a>(cluster: &Cluster, records: impl IntoIterator<Item = Publication<'a>>) {
    let publisher = Publisher::connect(cluster, "test", 1 << 20).expect("a publisher");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for record in records {
        runtime
            .block_on(publisher.publish(&record))
            .expect("confirmed");
    }
}
