//! What answers look like, as JSON Schema for who reads `/api/openapi.json`.

use serde_json::{Map, Value, json};

/// A JSON value that is answered.
pub enum Shape {
    Text,
    /// A whole number, 0 or more.
    Count,
    Number,
    Bool,
    /// Whatever a client or an application has sent.
    Any,
    OrNull(&'static Shape),
    List(&'static Shape),
    /// Members that are always there.
    Object(&'static [(&'static str, Shape)]),
    /// Members by names that are not known beforehand.
    Map(&'static Shape),
    Either(&'static [Shape]),
}

/// The answer of a request that has failed.
pub const ERROR: Shape =
    Shape::Object(&[("error", Shape::Object(&[("code", Shape::Text), ("message", Shape::Text)]))]);

impl Shape {
    pub fn schema(&self) -> Value {
        match self {
            Shape::Text => json!({"type": "string"}),
            Shape::Count => json!({"type": "integer", "minimum": 0}),
            Shape::Number => json!({"type": "number"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Any => json!({}),
            Shape::OrNull(shape) => json!({"anyOf": [shape.schema(), {"type": "null"}]}),
            Shape::List(of) => json!({"type": "array", "items": of.schema()}),
            Shape::Map(of) => json!({"type": "object", "additionalProperties": of.schema()}),
            Shape::Either(shapes) => {
                let shapes: Vec<Value> = shapes.iter().map(Shape::schema).collect();
                json!({"anyOf": shapes})
            }
            Shape::Object(members) => {
                let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
                let schemas: Map<String, Value> =
                    members.iter().map(|(name, shape)| ((*name).to_owned(), shape.schema())).collect();
                json!({"type": "object", "required": names, "properties": schemas})
            }
        }
    }
}
