//! What keyed state takes, and what becomes of its keys.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Unit,
};

use super::{PipelineLabel, Registry};

/// `kind`: `histories`, `rows` or `unwritten`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemoryLabels {
    pipeline: String,
    kind: &'static str,
}

/// Of the state of all pipelines.
#[derive(Clone)]
pub struct StateMetrics {
    memory: Family<MemoryLabels, Gauge>,
    disk: Family<PipelineLabel, Gauge>,
    evictions: Family<PipelineLabel, Counter>,
    forgotten: Family<PipelineLabel, Counter>,
    begun_anew: Family<PipelineLabel, Counter>,
}

/// Of one pipeline's state; lanes and stores add up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PipelineStateMetrics {
    histories: Gauge,
    rows: Gauge,
    unwritten: Gauge,
    disk: Gauge,
    evictions: Counter,
    forgotten: Counter,
    begun_anew: Counter,
}

/// What a part of a pipeline's state takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateUsage {
    /// In memory: histories in use.
    pub histories: usize,
    /// In memory: rows.
    pub rows: usize,
    /// In memory: changes that the disk had no room for.
    pub unwritten: usize,
    pub disk: u64,
}

impl std::ops::AddAssign for StateUsage {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.rows += other.rows;
        self.unwritten += other.unwritten;
        self.disk += other.disk;
    }
}

impl StateMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        let bytes = Some(Unit::Bytes);
        StateMetrics {
            memory: registry.registered("quadrille.state.memory", bytes.clone(), "Memory that state takes, by kind: histories in use; rows, which without QUADRILLE_STATE_DIR are all of the state, else those not on disk yet; unwritten changes that the disk had no room for", Family::default()),
            disk: registry.registered("quadrille.state.disk", bytes, "What the state of the partitions held takes on disk", Family::default()),
            evictions: registry.family("quadrille.state.evictions", "Histories that left memory for others; with the next record of their keys they are read again"),
            forgotten: registry.family("quadrille.state.forgotten_keys", "Keys whose state was deleted as forget_after says"),
            begun_anew: registry.family("quadrille.state.begun_anew", "Partitions taken over whose histories began empty, because their state was of another definition"),
        }
    }

    /// Those of one pipeline, looked up once.
    pub fn pipeline(&self, pipeline: &str) -> PipelineStateMetrics {
        let label = PipelineLabel {
            pipeline: pipeline.to_owned(),
        };
        let memory = |kind| {
            let pipeline = pipeline.to_owned();
            self.memory
                .get_or_create_owned(&MemoryLabels { pipeline, kind })
        };
        PipelineStateMetrics {
            histories: memory("histories"),
            rows: memory("rows"),
            unwritten: memory("unwritten"),
            disk: self.disk.get_or_create_owned(&label),
            evictions: self.evictions.get_or_create_owned(&label),
            forgotten: self.forgotten.get_or_create_owned(&label),
            begun_anew: self.begun_anew.get_or_create_owned(&label),
        }
    }
}

impl PipelineStateMetrics {
    /// Registered nowhere.
    pub fn unregistered() -> Self {
        StateMetrics::register(&Registry::default()).pipeline("")
    }

    /// A part of the state takes so much now, from what it took.
    pub fn moved(&self, before: StateUsage, now: StateUsage) {
        let by = |now: usize, before: usize| now as i64 - before as i64;
        self.histories.inc_by(by(now.histories, before.histories));
        self.rows.inc_by(by(now.rows, before.rows));
        self.unwritten.inc_by(by(now.unwritten, before.unwritten));
        self.disk.inc_by(now.disk as i64 - before.disk as i64);
    }

    pub fn evicted(&self, histories: u64) {
        self.evictions.inc_by(histories);
    }

    pub fn forgotten(&self, keys: u64) {
        self.forgotten.inc_by(keys);
    }

    /// The state of a partition was of another definition.
    pub fn begun_anew(&self) {
        self.begun_anew.inc();
    }

    /// Bytes of changes that the disk had no room for.
    pub fn unwritten_bytes(&self) -> u64 {
        self.unwritten.get().max(0).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_go_with_what_they_took() {
        let registry = Registry::default();
        let metrics = StateMetrics::register(&registry).pipeline("p");
        let usage = |bytes| StateUsage {
            histories: bytes,
            unwritten: 1,
            disk: 7,
            ..StateUsage::default()
        };
        metrics.moved(StateUsage::default(), usage(10));
        metrics.moved(StateUsage::default(), usage(5));
        metrics.moved(usage(10), usage(20));
        metrics.forgotten(3);
        let text = registry.encode();
        for line in [
            r#"quadrille_state_memory_bytes{pipeline="p",kind="histories"} 25"#,
            r#"quadrille_state_memory_bytes{pipeline="p",kind="unwritten"} 2"#,
            r#"quadrille_state_disk_bytes{pipeline="p"} 14"#,
            r#"quadrille_state_forgotten_keys_total{pipeline="p"} 3"#,
            r#"quadrille_state_evictions_total{pipeline="p"} 0"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        metrics.moved(usage(20), StateUsage::default());
        metrics.moved(usage(5), StateUsage::default());
        assert_eq!(metrics.unwritten_bytes(), 0);
    }
}
