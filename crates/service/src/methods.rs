//! The gRPC methods that the port serves, from their descriptors: for reflection, for metric labels, and to know which ones
//! stream.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use prost::{DecodeError, Message};
use prost_types::{FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};
use quadrille_telemetry::metrics::RpcDurations;

/// Everything in encoded descriptor sets but the services that are not among `services`.
///
/// # Errors
/// What is encoded is no descriptor set.
pub(crate) fn served(services: &[&str], sets: &[&[u8]]) -> Result<FileDescriptorSet, DecodeError> {
    let mut served = FileDescriptorSet::default();
    for set in sets {
        for mut file in FileDescriptorSet::decode(*set)?.file {
            let mut all = std::mem::take(&mut file.service);
            all.retain(|service| services.contains(&full_name(&file, service).as_str()));
            file.service = all;
            served.file.push(file);
        }
    }
    Ok(served)
}

fn full_name(file: &FileDescriptorProto, service: &ServiceDescriptorProto) -> String {
    match file.package() {
        "" => service.name().to_owned(),
        package => format!("{package}.{}", service.name()),
    }
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Methods(Arc<HashMap<String, Arc<Method>>>);

#[derive(Debug)]
pub(crate) struct Method {
    /// `package.Service/Method`.
    pub name: String,
    /// Whether it takes many messages.
    pub stream: bool,
    /// The duration of successful calls, looked up once: a lookup by labels takes as long as a small model.
    pub well: OnceLock<RpcDurations>,
}

impl Methods {
    pub fn of(served: &FileDescriptorSet) -> Self {
        let mut methods = HashMap::new();
        for file in &served.file {
            for service in &file.service {
                let full = full_name(file, service);
                for method in &service.method {
                    let of = Method {
                        stream: method.client_streaming(),
                        well: OnceLock::new(),
                        name: format!("{full}/{}", method.name()),
                    };
                    methods.insert(format!("/{}", of.name), Arc::new(of));
                }
            }
        }
        Methods(Arc::new(methods))
    }

    /// A method by its path; None if it is not served.
    pub fn get(&self, path: &str) -> Option<&Arc<Method>> {
        self.0.get(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_services_served_are_known() {
        let sets = [quadrille_proto::v1::FILE_DESCRIPTOR_SET];
        let served = served(&["quadrille.v1.IngestService"], &sets).unwrap();
        let services = served.file.iter().flat_map(|file| &file.service);
        assert_eq!(services.count(), 1);
        let methods = Methods::of(&served);
        let name = |path| methods.get(path).map(|method| method.name.as_str());
        assert_eq!(
            name("/quadrille.v1.IngestService/Submit"),
            Some("quadrille.v1.IngestService/Submit")
        );
        assert_eq!(name("/quadrille.v1.PredictService/Predict"), None);
        assert_eq!(name("/quadrille.v1.IngestService/Invented"), None);
        let is_stream = |path| methods.get(path).is_some_and(|method| method.stream);
        assert!(is_stream("/quadrille.v1.IngestService/SubmitStream"));
        assert!(!is_stream("/quadrille.v1.IngestService/Submit"));
    }
}
