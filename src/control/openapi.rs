//! The API as OpenAPI 3.1, made from the table of endpoints.

use super::access::OPEN_PATHS;
use super::api::arguments::{Need, Parameter};
use super::api::shape::ERROR;
use super::http::Code;
use super::routes::{Asks, ENDPOINTS, Endpoint, Gives};
use ::http::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What any request may fail with: by who asks, by its head, by its body, by how many there are.
const ANY: &[Code] = &[
    Code::Unauthorized,
    Code::Forbidden,
    Code::BadRequest,
    Code::RequestTimeout,
    Code::LengthRequired,
    Code::TooLarge,
    Code::UriTooLong,
    Code::ExpectationFailed,
    Code::HeadTooLarge,
    Code::VersionNotSupported,
    Code::TryAgain,
];

/// And a POST.
const OF_POST: &[Code] = &[Code::UnsupportedMediaType];

/// And one that asks cores.
const WITH_CORES: &[Code] = &[Code::Stopped, Code::Timeout];

/// The whole description, of a server with or without a key.
pub(super) fn document(has_key: bool) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in ENDPOINTS {
        let method = endpoint.method.as_str().to_ascii_lowercase();
        paths.entry(endpoint.path).or_default().insert(method, operation(endpoint));
    }
    let failures: Map<String, Value> =
        Code::ALL.iter().map(|code| (code.text().to_owned(), failure(&[*code]))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "megasock admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an operator sees of a megasock server and does with it. Times are milliseconds since 1970.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "security": if has_key { json!([{"key": []}]) } else { json!([]) },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR.schema()},
            "responses": failures,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "RequestId": {
                    "description": "The caller's, where it was well-formed, or else the server's own.",
                    "schema": {"type": "string"},
                },
                "RetryAfter": {
                    "description": "With `try_again`: seconds until it may be asked again.",
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let name = match endpoint.path {
        "/" => "dashboard",
        path => path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json"),
    };
    let mut operation = json!({
        "operationId": name,
        "summary": endpoint.about,
        "responses": responses(endpoint),
    });
    if endpoint.method == Method::POST {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": object(endpoint.takes)}}});
    } else if !endpoint.takes.is_empty() {
        operation["parameters"] = in_query(endpoint.takes);
    }
    if OPEN_PATHS.contains(&endpoint.path) {
        operation["security"] = json!([]);
    }
    operation
}

fn responses(endpoint: &Endpoint) -> Value {
    let headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
    let content = match &endpoint.gives {
        Gives::Json(shape) => json!({"application/json": {"schema": shape.schema()}}),
        Gives::Text(content_type) => json!({*content_type: {"schema": {"type": "string"}}}),
    };
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "Done.", "headers": headers, "content": content}));
    let of_post = if endpoint.method == Method::POST { OF_POST } else { &[] };
    let of_cores = if endpoint.asks == Asks::Nobody { &[] } else { WITH_CORES };
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in ANY.iter().chain(of_post).chain(of_cores).chain(endpoint.fails) {
        let codes = by_status.entry(code.status().as_u16()).or_default();
        if !codes.contains(code) {
            codes.push(*code);
        }
    }
    for (status, codes) in by_status {
        let response = match &codes[..] {
            [code] => json!({"$ref": format!("#/components/responses/{}", code.text())}),
            several => failure(several),
        };
        responses.insert(status.to_string(), response);
    }
    responses.into()
}

/// The answer with one of these codes, which have the same status.
fn failure(codes: &[Code]) -> Value {
    let about: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}", code.text(), code.about())).collect();
    let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
    if codes.iter().any(|code| code.retry_after_s().is_some()) {
        headers["Retry-After"] = json!({"$ref": "#/components/headers/RetryAfter"});
    }
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
    json!({"description": about.join(" "), "headers": headers, "content": content})
}

/// Those of which there is to be one stand in one object, whose members are parameters of their own on the way: so OpenAPI says
/// what it has no other word for.
fn in_query(takes: &[Parameter]) -> Value {
    let (choices, others): (Vec<_>, Vec<_>) =
        takes.iter().partition(|parameter| parameter.need == Need::OneOf);
    let alone = |parameter: &&Parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "required": parameter.need == Need::Required,
            "description": parameter.about,
            "schema": parameter.kind.schema(),
        })
    };
    let mut parameters: Vec<Value> = others.iter().map(alone).collect();
    if !choices.is_empty() {
        let of_one = |parameter: &&Parameter| {
            let mut member = object(&[]);
            member["properties"][parameter.name] = described(parameter);
            member["required"] = json!([parameter.name]);
            member
        };
        parameters.push(json!({
            "name": "which",
            "in": "query",
            "required": true,
            "style": "form",
            "explode": true,
            "description": "Exactly one of these.",
            "schema": {"oneOf": choices.iter().map(of_one).collect::<Vec<_>>()},
        }));
    }
    parameters.into()
}

fn described(parameter: &Parameter) -> Value {
    let mut schema = parameter.kind.schema();
    schema["description"] = parameter.about.into();
    schema
}

/// The body of a request with these parameters.
fn object(takes: &[Parameter]) -> Value {
    let properties: Map<String, Value> =
        takes.iter().map(|parameter| (parameter.name.to_owned(), described(parameter))).collect();
    let named = |need| -> Vec<&str> {
        takes.iter().filter(|parameter| parameter.need == need).map(|parameter| parameter.name).collect()
    };
    let mut object = json!({
        "type": "object",
        "properties": properties,
        "required": named(Need::Required),
        "additionalProperties": false,
    });
    let choices: Vec<Value> =
        named(Need::OneOf).into_iter().map(|name| json!({"required": [name]})).collect();
    if !choices.is_empty() {
        object["oneOf"] = choices.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn endpoints_are_told_apart_and_their_parameters_too() {
        let (mut places, mut names) = (HashSet::new(), HashSet::new());
        for endpoint in ENDPOINTS {
            assert!(places.insert((endpoint.path, &endpoint.method)), "{}", endpoint.path);
            assert!(endpoint.about.ends_with('.'), "{}", endpoint.about);
            let operation = operation(endpoint);
            assert!(names.insert(operation["operationId"].clone()), "{operation}");
            let parameters: HashSet<&str> = endpoint.takes.iter().map(|parameter| parameter.name).collect();
            assert_eq!(parameters.len(), endpoint.takes.len(), "{}", endpoint.path);
            assert!(
                endpoint.takes.iter().all(|parameter| parameter.about.ends_with('.')),
                "{}",
                endpoint.path
            );
        }
    }

    #[test]
    fn a_key_is_asked_for_where_there_is_one() {
        let document = document(true);
        assert_eq!(document["security"], json!([{"key": []}]));
        assert_eq!(document["paths"]["/health"]["get"]["security"], json!([]));
        assert_eq!(document["paths"]["/api/publish"]["post"]["security"], Value::Null);
        assert_eq!(super::document(false)["security"], json!([]));
    }
}
