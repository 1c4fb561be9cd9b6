//! The gRPC methods that the port serves, as the descriptors have them: for reflection, for labels of metrics, and to
//! know which take many messages.

use std::{collections::HashMap, sync::Arc};

use prost::{DecodeError, Message};
use prost_types::{FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};

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
pub(crate) struct Methods(Arc<HashMap<String, Method>>);

#[derive(Debug)]
struct Method {
    /// `package.Service/Method`.
    name: Arc<str>,
    stream: bool,
}

impl Methods {
    pub fn of(served: &FileDescriptorSet) -> Self {
        let mut methods = HashMap::new();
        for file in &served.file {
            for service in &file.service {
                let full = full_name(file, service);
                for method in &service.method {
                    let name: Arc<str> = format!("{full}/{}", method.name()).into();
                    let stream = method.client_streaming();
                    methods.insert(format!("/{name}"), Method { name, stream });
                }
            }
        }
        Methods(Arc::new(methods))
    }

    /// A method's full name by its path; none where it is not served.
    pub fn name(&self, path: &str) -> Option<Arc<str>> {
        self.0.get(path).map(|method| Arc::clone(&method.name))
    }

    /// Whether it takes many messages.
    pub fn is_stream(&self, path: &str) -> bool {
        self.0.get(path).is_some_and(|method| method.stream)
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
        let name = |path| methods.name(path);
        assert_eq!(
            name("/quadrille.v1.IngestService/Submit").as_deref(),
            Some("quadrille.v1.IngestService/Submit")
        );
        assert_eq!(name("/quadrille.v1.PredictService/Predict"), None);
        assert_eq!(name("/quadrille.v1.IngestService/Invented"), None);
        assert!(methods.is_stream("/quadrille.v1.IngestService/SubmitStream"));
        assert!(!methods.is_stream("/quadrille.v1.IngestService/Submit"));
    }
}
