//! An Avro schema compiled to a [`Program`], once, at start.
//!
//! apache-avro parses the schema and keeps its names; the attributes of plain types it forgets, and some mistakes it lets
//! pass with a warning. So the schema and its text are walked side by side, and every mistake is collected, each with
//! the path of its field. What no reading could satisfy, or what would silently mean something else than its author
//! thought, is a mistake: an ambiguous union, a minimum above its maximum, a record that must hold itself
//! ([`satisfiable`]). A logical type that is unknown, or not one of its type, is ignored, as Avro says.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, RecordSchema};

use super::attributes::names::{self, Unknown};
use super::attributes::{self, Attributes};
use super::program::{Absent, Array, Field, Node, NodeId, Program};
use super::quality;
use super::record::{Quality, Record};
use super::satisfiable;
use super::text::{Form, Text};

mod fields;
mod unions;

/// What is wrong with a default that counts as a value.
const COUNTS: &str = "its default is a value, and would count for \"any_of\" of the outermost record although no device sent it; make \
                      it null or empty, or list in an \"any_of\" of this record what counts";

/// Compiles the schema of one kind; `text` is what `schema` was parsed from.
///
/// # Errors
/// Every mistake, each beginning with the path of its field.
pub fn compile(schema: &Schema, text: &str) -> Result<Program, Vec<String>> {
    let text = Text::parse(text).map_err(|error| vec![error.to_string()])?;
    let mut compiler = Compiler::default();
    compiler.program.root = compiler.node(schema, &text, Attributes::default());
    for (place, array) in std::mem::take(&mut compiler.unidentified) {
        compiler.identify(array, place);
    }
    let misspelt = names::unknown(&text)
        .into_iter()
        .filter_map(|unknown| misspelt(&unknown));
    compiler.mistakes.extend(misspelt);
    let repeated = names::repeated(&text).into_iter();
    let twice = |name| format!("\"{name}\" is given twice, and only the last would count");
    compiler
        .mistakes
        .extend(repeated.map(|(path, name)| located(&path, twice(name))));
    if compiler.mistakes.is_empty()
        && let Err(mistake) = satisfiable::check(&compiler.program)
    {
        compiler.mistakes.push(mistake);
    }
    if compiler.mistakes.is_empty() {
        let counting = compiler.program.counting_defaults().into_iter();
        let said = counting.map(|(record, field)| located(&format!("{record}.{field}"), COUNTS.to_owned()));
        compiler.mistakes = said.collect();
    }
    compiler.program.nodes.shrink_to_fit();
    if compiler.mistakes.is_empty() {
        Ok(compiler.program)
    } else {
        Err(compiler.mistakes)
    }
}

/// Attributes of a schema that nobody here knows, and that are not nearly one that is known; each with the path of its field.
pub fn foreign_attributes(text: &str) -> Vec<String> {
    let Ok(text) = Text::parse(text) else {
        return Vec::new();
    };
    let unknown = names::unknown(&text).into_iter();
    let foreign = unknown.filter(|unknown| unknown.nearest.is_none());
    foreign
        .map(|unknown| located(&unknown.path, format!("\"{}\"", unknown.name)))
        .collect()
}

fn misspelt(unknown: &Unknown) -> Option<String> {
    let Unknown { path, name, nearest } = unknown;
    let nearest = nearest.as_ref()?;
    let what = format!("\"{name}\" is no attribute, and would silently mean nothing; did you mean \"{nearest}\"?");
    Some(located(path, what))
}

fn located(path: &str, what: String) -> String {
    if path.is_empty() {
        what
    } else {
        format!("{path}: {what}")
    }
}

#[derive(Default)]
struct Compiler {
    program: Program,
    named: HashMap<Name, NodeId>,
    /// Fields around the present place; `[]` and `{}` stand for items and values.
    path: Vec<String>,
    mistakes: Vec<String>,
    /// Arrays whose items are a record around them, which is not known yet; each with its path.
    unidentified: Vec<(String, NodeId)>,
    /// The outermost record has an `any_of`.
    is_value_needed: bool,
}

/// What a field's own attributes ask of the gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    Device,
    ReceivedAt,
    ObservedAt,
    Quality,
}

// === impl Compiler: types ===

impl Compiler {
    fn push(&mut self, node: Node) -> NodeId {
        self.program.nodes.push(node);
        (self.program.nodes.len() - 1) as NodeId
    }

    fn mistake(&mut self, what: impl std::fmt::Display) {
        self.mistakes.push(located(&self.place(), what.to_string()));
    }

    /// The path of the present place.
    fn place(&self) -> String {
        let path = self.path.concat();
        path.trim_start_matches('.').to_owned()
    }

    /// A mistake, and a node that lets the walk go on.
    fn broken(&mut self, what: impl std::fmt::Display) -> NodeId {
        self.mistake(what);
        self.push(Node::Null)
    }

    /// `outer` are the attributes that stand around the type, on its field.
    fn node<'t>(&mut self, schema: &Schema, text: &'t Text<'t>, outer: Attributes<'t>) -> NodeId {
        let mut attributes = outer;
        let leaf = attributes.gather(text, &mut |what| self.mistake(what));
        if let Some(name) = attributes::unsupported(schema) {
            return self.broken(format!("{name} is not supported, for JSON has no such thing"));
        }
        if let Schema::Union(union) = schema {
            return self.union(union, leaf, attributes);
        }
        attributes.check_place(&[schema], &mut |what| self.mistake(what));
        if let Some(node) = attributes.number(schema, &mut |what| self.mistake(what)) {
            return self.number(node, &attributes);
        }
        match schema {
            Schema::Boolean => self.push(Node::Boolean),
            Schema::String => {
                let text = attributes.text(&mut |what| self.mistake(what));
                self.push(text)
            }
            Schema::Enum(symbols) => {
                if symbols.symbols.is_empty() {
                    self.mistake("an enum without symbols: no reading could ever fit");
                }
                let named = attributes.symbols(&symbols.symbols, &mut |what| self.mistake(what));
                let node = self.push(Node::Enum(named));
                self.define(&symbols.name, node);
                node
            }
            Schema::Array(array) => {
                let items = self.inside("[]", &array.items, leaf.member("items"));
                let array = attributes.array(items, &mut |what| self.mistake(what));
                let is_unique = array.unique.is_some();
                let node = self.push(Node::Array(array));
                if is_unique && matches!(self.program.node(items), Node::Null) {
                    self.unidentified.push((self.place(), node));
                } else {
                    self.identify(node, self.place());
                }
                node
            }
            Schema::Map(map) => {
                let values = self.inside("{}", &map.types, leaf.member("values"));
                self.push(Node::Map(values))
            }
            Schema::Record(record) => self.record(record, leaf, &attributes),
            Schema::Ref { name } => match self.named.get(name) {
                Some(&node) => node,
                None => self.broken(format!(
                    "there is no type {name} before this place; refer to it by its own name"
                )),
            },
            _ => self.push(Node::Null),
        }
    }

    fn identify(&mut self, array: NodeId, place: String) {
        let Node::Array(Array { items, unique, .. }) = self.program.node(array) else {
            return;
        };
        if let Some(unique) = unique.clone()
            && let Err(what) = attributes::identify(&unique, *items, &mut self.program)
        {
            self.mistakes.push(located(&place, what));
        }
    }

    /// A number: one that can become null is known by its path, and a time may be accepted in other forms.
    fn number(&mut self, node: Node, attributes: &Attributes<'_>) -> NodeId {
        let (can_be_nulled, instant) = match &node {
            Node::Integer(integer) => (integer.range.can_be_nulled(), integer.instant),
            Node::Real(real) => (real.range.can_be_nulled(), None),
            _ => (false, None),
        };
        let node = self.push(node);
        let accepts = instant.and_then(|unit| attributes.accepts(node, unit, &mut |what| self.mistake(what)));
        let outer = accepts.map_or(node, |accepts| self.push(Node::Accepts(Box::new(accepts))));
        if can_be_nulled {
            let path: Box<str> = self.place().into();
            self.program
                .paths
                .extend((node..=outer).map(|node| (node, path.clone())));
        }
        outer
    }

    fn inside<'t>(&mut self, step: &str, schema: &Schema, text: &'t Text<'t>) -> NodeId {
        self.path.push(step.to_owned());
        let node = self.node(schema, text, Attributes::default());
        self.path.pop();
        node
    }

    fn define(&mut self, name: &Name, node: NodeId) {
        if self.named.insert(name.clone(), node).is_some() {
            self.mistake(format!("{name} is defined twice"));
        }
    }

    fn record<'t>(&mut self, schema: &RecordSchema, text: &'t Text<'t>, attributes: &Attributes<'t>) -> NodeId {
        // The place is taken before the fields are known, so that a record can hold itself.
        let node = self.push(Node::Null);
        self.define(&schema.name, node);
        let outermost = node == 0;
        self.is_value_needed |= outermost && attributes.has_any_of();
        let mut fields = Vec::new();
        let mut also = Vec::new();
        let mut quality = None;
        for (field, text) in schema.fields.iter().zip(text.member("fields").items()) {
            let Form::Object(text) = &text.form else {
                continue;
            };
            self.path.push(format!(".{}", field.name));
            let index = fields.len();
            let names = attributes::names_of_field(text, &mut |what| self.mistake(what));
            also.extend(names.into_iter().map(|name| (name.into_boxed_str(), index)));
            let (compiled, role) = self.field(field, text, outermost);
            if role == Role::Quality {
                let is_second = quality.is_some();
                quality = self.quality(index, &compiled);
                if is_second {
                    self.mistake("\"fill\": \"quality\" is given twice");
                }
            }
            fields.push(compiled);
            self.path.pop();
        }
        self.check_names(&fields, &also);
        let mut mistakes = Vec::new();
        let any_of = attributes.any_of(&fields, &self.program, &mut |what| mistakes.push(what));
        mistakes.into_iter().for_each(|what| self.mistake(what));
        if !outermost {
            self.check_inner(&fields, &any_of);
        }
        let successors = self.program.successors.len();
        self.program.successors.extend(0..=fields.len() as u32);
        let mut record = Record::new(fields, also, successors);
        record.rules.any_of = any_of;
        record.rules.is_outermost = outermost;
        record.rules.quality = quality;
        self.program.nodes[node as usize] = Node::Record(Box::new(record));
        node
    }

    /// `any_of` of a record inside of another: it says what counts as a value of the outermost.
    fn check_inner(&mut self, fields: &[Field], any_of: &[usize]) {
        if !any_of.is_empty() && !self.is_value_needed {
            self.mistake("\"any_of\" of a record inside means nothing unless the outermost has one");
        }
        for field in any_of.iter().filter_map(|&index| fields.get(index)) {
            if let Absent::Default(default) = &field.absent
                && self.program.has_value(field.node, default)
            {
                self.mistake(format!("\"any_of\": {} always has a value, its default", field.name));
            }
        }
    }

    /// Another spelling must name one field, and be no other's name.
    fn check_names(&mut self, fields: &[Field], also: &[(Box<str>, usize)]) {
        for (index, (name, _)) in also.iter().enumerate() {
            let is_name = fields.iter().any(|field| field.name == *name);
            let is_spelled_before = also[..index].iter().any(|(before, _)| before == name);
            if is_name || is_spelled_before {
                self.mistake(format!("\"{name}\" is another spelling of two fields"));
            }
        }
    }

    fn quality(&mut self, index: usize, field: &Field) -> Option<Quality> {
        let found = quality::compile(&mut self.program, index, field.node);
        if found.is_none() || field.absent.is_required() {
            self.mistake(quality::NEEDS);
        }
        found
    }
}
