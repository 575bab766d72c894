//! The part of the pickle format that dictionaries of tensors need (Python's pickletools describes the operations). It is data here, never
//! code: the few names that a file may call are known, and any other one is refused when it is named.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A value of a pickle. What holds other values is a place in a [`Heap`].
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// None, a truth value or a number with a fraction: nothing that is asked for.
    Other,
    Int(i64),
    Text(Arc<str>),
    /// A tuple or a list.
    Sequence(usize),
    Dict(usize),
    Name(Name),
    Storage(Storage),
    Tensor(Arc<Strided>),
}

/// What sequences and dictionaries hold. They can share values, hold themselves or be nested a million deep, so they refer to each other by
/// number: nothing here walks from one into the next.
#[derive(Debug, Default)]
pub(super) struct Heap {
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl Heap {
    /// What a dictionary or sequence holds, under its keys or numbers; nothing for other values. Keys that are no text and no number are left
    /// out.
    pub fn members(&self, value: &Value) -> Vec<(String, &Value)> {
        match value {
            Value::Dict(i) => {
                let name = |key: &Value| match key {
                    Value::Text(key) => Some(key.to_string()),
                    Value::Int(key) => Some(key.to_string()),
                    _ => None,
                };
                self.dicts[*i].iter().filter_map(|(key, value)| Some((name(key)?, value))).collect()
            }
            Value::Sequence(i) => self.sequences[*i].iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
            _ => Vec::new(),
        }
    }

    fn sequence(&mut self, values: Vec<Value>) -> Value {
        self.sequences.push(values);
        Value::Sequence(self.sequences.len() - 1)
    }

    fn dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    /// The values of a sequence.
    fn values(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Sequence(i) => Some(&self.sequences[*i]),
            _ => None,
        }
    }
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Type),
}

/// Types of numbers of a storage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Type {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    U8,
}

/// Numbers of the archive's entry `data/KEY`.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub kind: Type,
    pub key: Arc<str>,
}

/// A tensor: a view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// What every pickle with more than that is told.
const ALONE: &str = "expected tensors and dictionaries alone: code of a checkpoint is never run; load the file where you trust it and save \
                     the network's state_dict() with torch.save";

fn named(module: &str, name: &str) -> Result<Name, String> {
    let kind = match (module, name) {
        ("collections", "OrderedDict") => return Ok(Name::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => return Ok(Name::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => return Ok(Name::RebuildParameter),
        ("torch", "Size") => return Ok(Name::Size),
        ("torch", "DoubleStorage") => Type::F64,
        ("torch", "FloatStorage") => Type::F32,
        ("torch", "HalfStorage") => Type::F16,
        ("torch", "BFloat16Storage") => Type::Bf16,
        ("torch", "LongStorage") => Type::I64,
        ("torch", "IntStorage") => Type::I32,
        ("torch", "ByteStorage") => Type::U8,
        _ => {
            return Err(format!("found the name {module}.{name}, {ALONE}"));
        }
    };
    Ok(Name::Storage(kind))
}

/// The value of a pickle and what it holds.
///
/// # Errors
/// Says at which byte what was found.
pub(super) fn parse(bytes: &[u8]) -> Result<(Value, Heap), String> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new(), heap: Heap::default() };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => (),
            Ok(Some(value)) => return Ok((value, machine.heap)),
            Err(message) => return Err(format!("byte {at} of the pickle: {message}")),
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Where the parts of the stack begin that a mark opened.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Value>,
    heap: Heap,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end =
            self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or("the pickle ends here; fetch the file again")?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    /// A little-endian number of `n` bytes up to eight.
    fn number(&mut self, n: usize) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, b| sum << 8 | *b as u64))
    }

    fn text(&mut self, len: u64) -> Result<Value, String> {
        Ok(Value::Text(String::from_utf8_lossy(self.take(len as usize)?).into()))
    }

    fn line(&mut self) -> Result<String, String> {
        let len = self.bytes[self.at..].iter().position(|b| *b == b'\n').ok_or("a name without an end; the file is damaged")?;
        let line = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        let mark = self.marks.last().copied().unwrap_or(0);
        let above = if self.stack.len() > mark { self.stack.pop() } else { None };
        above.ok_or_else(|| "an operation without its operand; the file is damaged".into())
    }

    /// The last `n` values.
    fn last(&mut self, n: usize) -> Result<Vec<Value>, String> {
        let mut values = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(values)
    }

    /// The values since the last mark.
    fn marked(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("an operation without its mark; the file is damaged")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let value = self.memo.get(&key).ok_or("a reference to nothing; the file is damaged")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn memorise(&mut self, key: u64) -> Result<(), String> {
        let value = self.stack.last().ok_or("a reference to nothing; the file is damaged")?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    /// Adds keys and values, one after the other, to the dictionary on the stack.
    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("entries without a dictionary; the file is damaged".into());
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.heap.dicts[*dict].push((key, value));
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Sequence(list)) = self.stack.last() else {
            return Err("elements without a list; the file is damaged".into());
        };
        self.heap.sequences[*list].extend(items);
        Ok(())
    }

    /// One operation; the value where it is the last one.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let value = match self.take(1)?[0] {
            b'.' => return self.pop().map(Some),
            0x80 => self.take(1).map(|_| None)?, // protocol
            0x95 => self.take(8).map(|_| None)?, // frame
            b'(' => {
                self.marks.push(self.stack.len());
                None
            }
            b'0' => self.pop().map(|_| None)?,
            b'N' | 0x88 | 0x89 => Some(Value::Other),
            b'K' => Some(Value::Int(self.number(1)? as i64)),
            b'M' => Some(Value::Int(self.number(2)? as i64)),
            b'J' => Some(Value::Int(self.number(4)? as i32 as i64)),
            0x8a => Some(self.long()?),
            b'G' => self.take(8).map(|_| Some(Value::Other))?,
            0x8c => {
                let len = self.number(1)?;
                Some(self.text(len)?)
            }
            b'X' => {
                let len = self.number(4)?;
                Some(self.text(len)?)
            }
            b'}' => Some(self.heap.dict()),
            b']' | b')' => Some(self.heap.sequence(Vec::new())),
            code @ 0x85..=0x87 => {
                let values = self.last(code as usize - 0x84)?;
                Some(self.heap.sequence(values))
            }
            b't' => {
                let values = self.marked()?;
                Some(self.heap.sequence(values))
            }
            b'q' => self.number(1).and_then(|key| self.memorise(key)).map(|()| None)?,
            b'r' => self.number(4).and_then(|key| self.memorise(key)).map(|()| None)?,
            0x94 => self.memorise(self.memo.len() as u64).map(|()| None)?,
            b'h' => self.number(1).and_then(|key| self.recall(key)).map(|()| None)?,
            b'j' => self.number(4).and_then(|key| self.recall(key)).map(|()| None)?,
            b's' => {
                let item = self.last(2)?;
                self.set(item).map(|()| None)?
            }
            b'u' => {
                let items = self.marked()?;
                self.set(items).map(|()| None)?
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item]).map(|()| None)?
            }
            b'e' => {
                let items = self.marked()?;
                self.append(items).map(|()| None)?
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Some(Value::Name(named(&module, &name)?))
            }
            0x93 => match &self.last(2)?[..] {
                [Value::Text(module), Value::Text(name)] => Some(Value::Name(named(module, name)?)),
                _ => return Err("a name that is no text; the file is damaged".into()),
            },
            b'Q' => {
                let id = self.pop()?;
                Some(self.storage(&id)?)
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                Some(self.call(&function, &arguments)?)
            }
            // Attributes of an ordered dictionary (versions of layers): not asked for.
            b'b' => match (self.pop()?, self.stack.last()) {
                (_, Some(Value::Dict(_))) => None,
                _ => return Err(format!("found an object with a state of its own, {ALONE}")),
            },
            other => return Err(format!("found operation {other:#04x}, {ALONE}")),
        };
        self.stack.extend(value);
        Ok(None)
    }

    /// An integer of given length; those beyond 64 bits (seeds, at most) are not asked for.
    fn long(&mut self) -> Result<Value, String> {
        let len = self.number(1)? as usize;
        if len > 8 {
            return self.take(len).map(|_| Value::Other);
        }
        let value = self.number(len)?;
        let unused = 64 - 8 * len as u32;
        Ok(Value::Int(if len == 0 { 0 } else { (value << unused) as i64 >> unused }))
    }

    /// From ("storage", type, key, device, length).
    fn storage(&self, id: &Value) -> Result<Value, String> {
        match self.heap.values(id) {
            Some([Value::Text(word), Value::Name(Name::Storage(kind)), Value::Text(key), ..]) if &**word == "storage" => {
                Ok(Value::Storage(Storage { kind: *kind, key: key.clone() }))
            }
            _ => Err(format!("found a reference that is no storage of numbers, {ALONE}")),
        }
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<Value, String> {
        let (Value::Name(name), Some(arguments)) = (function, self.heap.values(arguments)) else {
            return Err(format!("found a call of something that is no known name, {ALONE}"));
        };
        let lengths = |value: &Value| self.heap.values(value)?.iter().map(length).collect::<Option<Vec<usize>>>();
        let made = match (name, arguments) {
            (Name::OrderedDict, []) => return Ok(self.heap.dict()),
            (Name::Size, [size @ Value::Sequence(_)]) => Some(size.clone()),
            (Name::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Some(tensor.clone()),
            (Name::RebuildTensor, [Value::Storage(storage), offset, shape, stride, ..]) => length(offset).and_then(|offset| {
                let (shape, stride) = (lengths(shape)?, lengths(stride)?);
                Some(Value::Tensor(Arc::new(Strided { storage: storage.clone(), offset, shape, stride })))
            }),
            _ => None,
        };
        made.ok_or_else(|| format!("a call of {name:?} with arguments that it does not have; the file is damaged"))
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}
