//! JSON that is no larger in memory than it may be: lists of a bounded length, and parameters that are single values. What
//! goes beyond is refused where it is read. Pure.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::{InferParameter, infer_parameter::ParameterChoice};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

/// Sides of a shape, at most: more than any tensor has.
pub(crate) const SIDES_MAX: usize = 64;
/// Parameters of one input, output or request, at most.
const PARAMETERS_MAX: usize = 1_024;

/// A list of at most `N` elements.
#[derive(Debug)]
pub(crate) struct Bounded<T, const N: usize>(pub Vec<T>);

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Bounded(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const N: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Elements<T, N> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == N {
                        return Err(A::Error::custom(format_args!(
                            "a list has more than {N} elements"
                        )));
                    }
                    elements.push(element);
                }
                Ok(elements)
            }
        }

        deserializer
            .deserialize_seq(Elements::<T, N>(PhantomData))
            .map(Bounded)
    }
}

/// Parameters as gRPC has them; of a name that comes twice the last one counts, as ever.
#[derive(Debug, Default)]
pub(crate) struct Parameters(pub BTreeMap<String, InferParameter>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;

        impl<'de> Visitor<'de> for Named {
            type Value = BTreeMap<String, InferParameter>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parameters = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if parameters.len() == PARAMETERS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "there are more than {PARAMETERS_MAX} parameters"
                        )));
                    }
                    let parameter_choice = Some(map.next_value_seed(One(&name))?);
                    parameters.insert(name, InferParameter { parameter_choice });
                }
                Ok(parameters)
            }
        }

        deserializer.deserialize_map(Named).map(Parameters)
    }
}

/// The value of a parameter of this name.
struct One<'n>(&'n str);

impl One<'_> {
    fn refused<E: serde::de::Error>(self) -> Result<ParameterChoice, E> {
        Err(E::custom(format_args!(
            "parameter {} must be a text, a number, true or false",
            quote(self.0)
        )))
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ParameterChoice;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ParameterChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::BoolParam(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::Int64Param(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<ParameterChoice, E> {
        Ok(match i64::try_from(number) {
            Ok(number) => ParameterChoice::Int64Param(number),
            Err(_) => ParameterChoice::Uint64Param(number),
        })
    }

    fn visit_f64<E>(self, number: f64) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::DoubleParam(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<ParameterChoice, E> {
        Ok(ParameterChoice::StringParam(text.to_owned()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<ParameterChoice, E> {
        self.refused()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<ParameterChoice, A::Error> {
        self.refused()
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<ParameterChoice, A::Error> {
        self.refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(json: &str) -> Result<BTreeMap<String, InferParameter>, String> {
        let read = serde_json::from_str::<Parameters>(json);
        read.map(|it| it.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_parameter_is_one_value_and_a_list_or_an_object_is_refused_at_its_beginning() {
        let read =
            parameters(r#"{"a": -1, "b": 18446744073709551615, "c": 1.5, "d": "x", "e": true}"#);
        let choices: Vec<_> = read.unwrap().into_values().collect();
        let choices: Vec<_> = choices
            .into_iter()
            .flat_map(|it| it.parameter_choice)
            .collect();
        let expected = [
            ParameterChoice::Int64Param(-1),
            ParameterChoice::Uint64Param(u64::MAX),
            ParameterChoice::DoubleParam(1.5),
            ParameterChoice::StringParam("x".to_owned()),
            ParameterChoice::BoolParam(true),
        ];
        assert_eq!(choices, expected);
        // What follows is not read: it is no JSON at all.
        for value in ["[{\"\":0}, ?", "{\"\": ?", "null"] {
            let refused = parameters(&format!("{{\"x\": {value}}}")).unwrap_err();
            assert!(
                refused.contains("parameter \"x\" must be a text"),
                "{refused}"
            );
        }
        let many: Vec<String> = (0..1_025).map(|at| format!("\"{at}\":0")).collect();
        let refused = parameters(&format!("{{{}}}", many.join(","))).unwrap_err();
        assert!(refused.contains("1024 parameters"), "{refused}");
    }

    #[test]
    fn a_list_ends_where_it_is_too_long() {
        let read = |json: &str| serde_json::from_str::<Bounded<i64, 3>>(json);
        assert_eq!(read("[1, 2, 3]").unwrap().0, [1, 2, 3]);
        let refused = read("[1, 2, 3, 4, ?").unwrap_err().to_string();
        assert!(refused.contains("more than 3 elements"), "{refused}");
    }
}
