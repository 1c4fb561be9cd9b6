//! What a replica says of itself.

use std::collections::BTreeMap;

use prost::Message;
use quadrille_proto::v1::{
    HeldPartition, HeldState, ReplicaModel as WireReplicaModel, ReplicaModelState, ReplicaStatus,
};

use crate::{HeldPartitions, HoldingLanes, ModelId, ModelState, Replica, ReplicaModel};

pub(crate) fn encode_replica(replica: &Replica) -> Vec<u8> {
    let model = |model: &ReplicaModel| {
        let (state, why) = match &model.state {
            ModelState::Wanted => (ReplicaModelState::Wanted, ""),
            ModelState::Loading => (ReplicaModelState::Loading, ""),
            ModelState::Ready => (ReplicaModelState::Ready, ""),
            ModelState::Failed { why } => (ReplicaModelState::Failed, why.as_str()),
        };
        WireReplicaModel {
            name: model.id.name.clone(),
            version: model.id.version.clone(),
            state: state.into(),
            why: why.to_owned(),
        }
    };
    let status = ReplicaStatus {
        service: replica.service.clone(),
        instance: replica.instance.clone(),
        at_ms: replica.at_ms,
        models: replica.models.iter().map(model).collect(),
        revisions: replica.revisions.clone().into_iter().collect(),
        models_offset: replica.models_offset,
        deployments_offset: replica.deployments_offset,
        address: replica.address.clone(),
        held: encode_held(&replica.held, &replica.lanes),
        standing_by: encode_held(&replica.standing_by, &BTreeMap::new()),
    };
    status.encode_to_vec()
}

fn encode_held(
    held: &BTreeMap<String, HeldPartitions>,
    lanes: &BTreeMap<String, HoldingLanes>,
) -> Vec<HeldState> {
    let held = held.iter().map(|(pipeline, partitions)| {
        let lanes = lanes.get(pipeline);
        let partitions = partitions
            .iter()
            .map(|(partition, since_ms)| HeldPartition {
                partition: *partition,
                since_ms: *since_ms,
                lane: lanes.and_then(|lanes| lanes.get(partition).copied()),
            });
        HeldState {
            pipeline: pipeline.clone(),
            partitions: partitions.collect(),
        }
    });
    held.collect()
}

/// # Errors
/// The value is not a status.
pub(crate) fn decode_replica(value: &[u8]) -> Result<Replica, String> {
    let status = ReplicaStatus::decode(value)
        .map_err(|error| format!("the value is not a status: {error}"))?;
    let model = |model: WireReplicaModel| ReplicaModel {
        id: ModelId {
            name: model.name,
            version: model.version,
        },
        state: match ReplicaModelState::try_from(model.state) {
            Ok(ReplicaModelState::Wanted) => ModelState::Wanted,
            Ok(ReplicaModelState::Loading) => ModelState::Loading,
            Ok(ReplicaModelState::Ready) => ModelState::Ready,
            Ok(ReplicaModelState::Failed) => ModelState::Failed { why: model.why },
            Ok(ReplicaModelState::Unspecified) | Err(_) => ModelState::Failed {
                why: format!("state {} is not known to this version", model.state),
            },
        },
    };
    let lane = |it: &HeldPartition| Some((it.partition, it.lane?));
    let lanes = |it: &HeldState| {
        let lanes: HoldingLanes = it.partitions.iter().filter_map(lane).collect();
        (!lanes.is_empty()).then(|| (it.pipeline.clone(), lanes))
    };
    let lanes = status.held.iter().filter_map(lanes).collect();
    let partition = |it: HeldPartition| (it.partition, it.since_ms);
    let held = |it: HeldState| {
        let partitions = it.partitions.into_iter().map(partition);
        (it.pipeline, partitions.collect::<HeldPartitions>())
    };
    Ok(Replica {
        service: status.service,
        instance: status.instance,
        at_ms: status.at_ms,
        models: status.models.into_iter().map(model).collect(),
        revisions: status.revisions.into_iter().collect(),
        models_offset: status.models_offset,
        deployments_offset: status.deployments_offset,
        address: status.address,
        held: status.held.into_iter().map(held).collect(),
        lanes,
        standing_by: status.standing_by.into_iter().map(held).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::id;

    #[test]
    fn a_status_is_read_as_it_was_written() {
        let model = |version: &str, state| ReplicaModel {
            id: id("m", version),
            state,
        };
        let replica = Replica {
            service: "inference".to_owned(),
            instance: "a:1".to_owned(),
            at_ms: 5,
            models: vec![
                model("1", ModelState::Wanted),
                model("2", ModelState::Loading),
                model("3", ModelState::Ready),
                model(
                    "4",
                    ModelState::Failed {
                        why: "no".to_owned(),
                    },
                ),
            ],
            revisions: [("p".to_owned(), 3)].into(),
            models_offset: 7,
            deployments_offset: 9,
            address: "a.example:7002".to_owned(),
            held: [("p".to_owned(), [(0, 5), (7, 9)].into())].into(),
            lanes: [("p".to_owned(), [(7, 1)].into())].into(),
            standing_by: [("p".to_owned(), [(1, 6)].into())].into(),
        };
        assert_eq!(decode_replica(&encode_replica(&replica)), Ok(replica));
        assert!(decode_replica(b"garbage").is_err());
    }
}
