//! Reads Python's pickles, as far as PyTorch's checkpoints need them.
//!
//! A pickle is a program for a stack machine. This module executes the instructions that build
//! plain values. It recognizes a few calls of PyTorch, which give a tensor or a dictionary. It
//! imports nothing and runs nothing: any other call gives an empty value.

use std::collections::HashMap;

use safetensors::Dtype;

/// Index of a value in [`Machine::values`].
///
/// Values refer to each other by index. So a deeply nested pickle cannot overflow the stack of a
/// thread.
type Place = usize;

/// A value built by a pickle.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Int(i64),
    /// A class or function, named `module.name`.
    Global(String),
    Sequence(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    Storage(Storage),
    Tensor(Tensor),
    /// Any other value. Its contents are dropped.
    Other,
}

/// Numbers that are stored outside the pickle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub dtype: Dtype,
    pub key: String,
    pub n_elements: usize,
}

/// A view of a storage, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The machine after it has executed a pickle.
pub(super) struct Machine {
    values: Vec<Value>,
    stack: Vec<Place>,
    /// Stack lengths at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Place>,
    root: Place,
}

/// Most values that are visited. A few dictionaries that contain each other many times could give
/// more than a program can visit.
const MOST_VALUES: usize = 1 << 20;
/// Deepest nesting of dictionaries that is visited.
const DEEPEST: usize = 64;

impl Machine {
    /// Executes the pickle at the start of `bytes`, and returns its length in bytes.
    ///
    /// # Errors
    /// If the pickle is truncated or has an unknown instruction. The text states which.
    pub fn run(bytes: &[u8]) -> Result<(Self, usize), String> {
        let mut machine = Self {
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            root: 0,
        };
        let mut input = Input { bytes, at: 0 };
        while machine.step(&mut input)? {}
        Ok((machine, input.at))
    }

    /// Returns the tensors of all nested dictionaries. Names are the joined keys.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>, String> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), self.root, 0)];
        let mut n_seen = 0;
        while let Some((name, place, depth)) = open.pop() {
            n_seen += 1;
            match &self.values[place] {
                Value::Tensor(tensor) => found.push((name, tensor.clone())),
                Value::Dict(entries) if depth < DEEPEST => {
                    for (key, value) in entries {
                        let key = match &self.values[*key] {
                            Value::Text(key) => key.clone(),
                            Value::Int(key) => key.to_string(),
                            _ => continue,
                        };
                        // Where a module that was pickled whole stores the contents of its
                        // `state_dict()`.
                        let is_module_field =
                            ["_modules", "_parameters", "_buffers"].contains(&key.as_str());
                        let inner = match (is_module_field, name.is_empty()) {
                            (true, _) => name.clone(),
                            (false, true) => key,
                            (false, false) => format!("{name}.{key}"),
                        };
                        open.push((inner, *value, depth + 1));
                    }
                }
                _ => {}
            }
            if n_seen + open.len() > MOST_VALUES {
                return Err("the file has too many tensors".into());
            }
        }
        Ok(found)
    }

    /// Returns the root if it is a list of texts.
    pub fn texts(&self) -> Option<Vec<String>> {
        let Value::Sequence(items) = &self.values[self.root] else { return None };
        items
            .iter()
            .map(|item| match &self.values[*item] {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect()
    }

    /// Returns the root if it is a number.
    pub fn int(&self) -> Option<i64> {
        self.int_at(self.root)
    }

    /// Executes one instruction. Returns false after the last one.
    fn step(&mut self, input: &mut Input) -> Result<bool, String> {
        let code = input.u8()?;
        match code {
            b'.' => {
                self.root = self.pop()?;
                return Ok(false);
            }
            0x80 => drop(input.u8()?),
            0x95 => drop(input.read(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'}' => self.push(Value::Dict(Vec::new())),
            b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new())),
            b't' | 0x91 => self.gather_from_mark()?,
            0x85..=0x87 => {
                let items = self.pop_last(usize::from(code - 0x84))?;
                self.push(Value::Sequence(items));
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'K' => self.push_int(i64::from(input.u8()?)),
            b'M' => self.push_int(input.uint(2)? as i64),
            b'J' => self.push_int(i64::from(input.uint(4)? as u32 as i32)),
            0x8a | 0x8b => self.push_long(input, if code == 0x8a { 1 } else { 4 })?,
            b'G' => {
                input.read(8)?;
                self.push(Value::Other);
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' => {
                let n_bytes = input.uint(length_of_length(code))?;
                let text = String::from_utf8_lossy(input.read(n_bytes)?).into_owned();
                self.push(Value::Text(text));
            }
            b'C' | b'B' | 0x8e => {
                let n_bytes = input.uint(length_of_length(code))?;
                input.read(n_bytes)?;
                self.push(Value::Other);
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let [module, name] = self.pop_array()?;
                let global = match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => {
                        Value::Global(format!("{module}.{name}"))
                    }
                    _ => Value::Other,
                };
                self.push(global);
            }
            b'q' => self.memo_put(u64::from(input.u8()?))?,
            b'r' => self.memo_put(input.uint(4)? as u64)?,
            0x94 => self.memo_put(self.memo.len() as u64)?,
            b'h' => self.memo_get(u64::from(input.u8()?))?,
            b'j' => self.memo_get(input.uint(4)? as u64)?,
            b's' => {
                let [dict, key, value] = self.pop_array()?;
                self.stack.push(dict);
                self.extend_dict(dict, &[key, value]);
            }
            b'u' => {
                let items = self.since_mark()?;
                self.extend_dict(self.top()?, &items);
            }
            b'a' => {
                let [list, item] = self.pop_array()?;
                self.stack.push(list);
                self.extend_list(list, &[item]);
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend_list(self.top()?, &items);
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id).map_or(Value::Other, Value::Storage);
                self.push(storage);
            }
            b'R' => {
                let [function, arguments] = self.pop_array()?;
                let result = self.call(function, arguments);
                self.push(result);
            }
            // An object. Instruction `b` adds its contents.
            0x81 => {
                let [_, _] = self.pop_array()?;
                self.push(Value::Dict(Vec::new()));
            }
            0x92 => {
                let [_, _, _] = self.pop_array()?;
                self.push(Value::Dict(Vec::new()));
            }
            b'b' => {
                let [object, state] = self.pop_array()?;
                self.stack.push(object);
                if let Value::Dict(entries) = self.values[state].clone()
                    && let Value::Dict(own) = &mut self.values[object]
                {
                    own.extend(entries);
                }
            }
            other => {
                return Err(format!("the pickle has the unknown instruction {other:#04x}"));
            }
        }
        Ok(true)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn push_int(&mut self, number: i64) {
        self.push(Value::Int(number));
    }

    /// Pushes an integer of any length. One of more than 8 bytes cannot be a size, so its value is
    /// dropped.
    fn push_long(&mut self, input: &mut Input, n_length_bytes: usize) -> Result<(), String> {
        let n_bytes = input.uint(n_length_bytes)?;
        let bytes = input.read(n_bytes)?;
        let sign = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                self.push_int(i64::from_le_bytes(wide));
            }
            None => self.push(Value::Other),
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Place, String> {
        self.stack.pop().ok_or_else(|| "the pickle pops from an empty stack".into())
    }

    fn top(&self) -> Result<Place, String> {
        self.stack.last().copied().ok_or_else(|| "the pickle pops from an empty stack".into())
    }

    fn pop_last(&mut self, n: usize) -> Result<Vec<Place>, String> {
        match self.stack.len().checked_sub(n) {
            Some(at) => Ok(self.stack.split_off(at)),
            None => Err("the pickle pops from an empty stack".into()),
        }
    }

    /// Pops the last `N` values, in the order in which they were pushed.
    fn pop_array<const N: usize>(&mut self) -> Result<[Place; N], String> {
        Ok(self.pop_last(N)?.try_into().expect("`pop_last` returns `N` values"))
    }

    fn since_mark(&mut self) -> Result<Vec<Place>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        mark.map(|mark| self.stack.split_off(mark))
            .ok_or_else(|| "the pickle has too few marks".into())
    }

    fn gather_from_mark(&mut self) -> Result<(), String> {
        let items = self.since_mark()?;
        self.push(Value::Sequence(items));
        Ok(())
    }

    fn memo_put(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memo_get(&mut self, key: u64) -> Result<(), String> {
        let place = self.memo.get(&key).ok_or("the pickle reads an unknown memo entry")?;
        self.stack.push(*place);
        Ok(())
    }

    fn extend_dict(&mut self, dict: Place, items: &[Place]) {
        if let Value::Dict(entries) = &mut self.values[dict] {
            entries.extend(items.chunks_exact(2).map(|entry| (entry[0], entry[1])));
        }
    }

    fn extend_list(&mut self, list: Place, items: &[Place]) {
        if let Value::Sequence(own) = &mut self.values[list] {
            own.extend(items);
        }
    }

    fn int_at(&self, place: Place) -> Option<i64> {
        match self.values[place] {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    fn items(&self, place: Place) -> Option<&[Place]> {
        match &self.values[place] {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    fn sizes(&self, place: Place) -> Option<Vec<usize>> {
        self.items(place)?.iter().map(|item| usize::try_from(self.int_at(*item)?).ok()).collect()
    }

    /// Parses `("storage", torch.FloatStorage, key, device, number of elements, ..)`.
    fn storage(&self, id: Place) -> Option<Storage> {
        let &[_, kind, key, _, n_elements, ..] = self.items(id)? else { return None };
        let (Value::Global(kind), Value::Text(key)) = (&self.values[kind], &self.values[key])
        else {
            return None;
        };
        let n_elements = usize::try_from(self.int_at(n_elements)?).ok()?;
        Some(Storage { dtype: dtype_of(kind)?, key: key.clone(), n_elements })
    }

    /// Returns the result of a call that checkpoints use, else an empty value.
    fn call(&self, function: Place, arguments: Place) -> Value {
        let (Value::Global(function), Some(arguments)) =
            (&self.values[function], self.items(arguments))
        else {
            return Value::Other;
        };
        match (function.as_str(), arguments) {
            ("collections.OrderedDict", _) => Value::Dict(Vec::new()),
            ("torch._utils._rebuild_parameter", [data, ..]) => self.values[*data].clone(),
            (
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
                [storage, offset, shape, strides, ..],
            ) => self
                .tensor([*storage, *offset, *shape, *strides])
                .map_or(Value::Other, Value::Tensor),
            _ => Value::Other,
        }
    }

    fn tensor(&self, [storage, offset, shape, strides]: [Place; 4]) -> Option<Tensor> {
        let Value::Storage(storage) = &self.values[storage] else { return None };
        let offset = usize::try_from(self.int_at(offset)?).ok()?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        (shape.len() == strides.len()).then(|| Tensor {
            storage: storage.clone(),
            offset,
            shape,
            strides,
        })
    }
}

/// Number of bytes that encode the length of a text or of bytes.
fn length_of_length(code: u8) -> usize {
    match code {
        0x8c | b'U' | b'C' => 1,
        0x8d | 0x8e => 8,
        _ => 4,
    }
}

fn dtype_of(kind: &str) -> Option<Dtype> {
    Some(match kind.strip_prefix("torch.")? {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn read(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the pickle is truncated")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.read(1)?[0])
    }

    /// Reads a little-endian number of up to 8 bytes.
    fn uint(&mut self, n_bytes: usize) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..n_bytes].copy_from_slice(self.read(n_bytes)?);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| "the pickle has a length beyond memory".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("the pickle is truncated")?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &[u8]) -> Result<(Machine, usize), String> {
        Machine::run(bytes)
    }

    // pickle.dumps(["a", "b"], 2)
    #[test]
    fn a_list_of_texts_is_read() {
        let bytes = b"\x80\x02]q\x00(X\x01\x00\x00\x00aq\x01X\x01\x00\x00\x00bq\x02e.and more";
        let (machine, n_bytes) = run(bytes).expect("a pickle");
        assert_eq!(machine.texts().expect("texts"), ["a", "b"]);
        assert_eq!(&bytes[n_bytes..], b"and more");
    }

    // pickle.dumps(n, 2) for numbers of each form.
    #[test]
    fn numbers_of_each_length_are_read() {
        for (bytes, wanted) in [
            (&b"\x80\x02K\x07."[..], 7),
            (b"\x80\x02M\xe9\x03.", 1001),
            (b"\x80\x02J\xff\xff\xff\xff.", -1),
            (b"\x80\x02\x8a\x05\x00\x00\x00\x00\x02.", 1 << 33),
            (b"\x80\x02\x8a\x05\x00\x00\x00\x00\xfe.", -(1 << 33)),
        ] {
            assert_eq!(run(bytes).expect("a pickle").0.int(), Some(wanted));
        }
    }

    // pickle.dumps of an object whose __reduce__ is (os.system, ("touch /tmp/x",)).
    #[test]
    fn a_call_is_not_made() {
        let file = std::env::temp_dir().join(format!("mmgem-pickle-{}", std::process::id()));
        let command = format!("touch {}", file.display());
        let mut bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00xcposix\nsystem\nU".to_vec();
        bytes.push(command.len() as u8);
        bytes.extend(command.as_bytes());
        bytes.extend(b"\x85Rs.");
        let (machine, _) = run(&bytes).expect("a pickle");
        assert!(machine.tensors().expect("a dictionary").is_empty());
        assert!(!file.exists());
    }

    #[test]
    fn a_truncated_or_random_pickle_is_an_error() {
        let whole = b"\x80\x02]q\x00(X\x01\x00\x00\x00aq\x01X\x01\x00\x00\x00bq\x02e.";
        for end in 0..whole.len() {
            assert!(run(&whole[..end]).is_err(), "{end}");
        }
        for bytes in [
            &b"."[..],
            b"\x80\x02u.",
            b"\x80\x02t.",
            b"h\x07.",
            b"\xff.",
            b"X\xff\xff\xff\xffa.",
            b"(0.",
        ] {
            assert!(run(bytes).is_err(), "{bytes:?}");
        }
    }

    // Nested lists: a recursive reader would overflow its stack.
    #[test]
    fn a_deep_pickle_takes_no_stack() {
        let bytes = [vec![b']'; 1 << 20], vec![b'a'; (1 << 20) - 1], b".".to_vec()].concat();
        drop(run(&bytes).expect("a pickle"));
        // {"k": {"k": ..}}
        let open = b"}X\x01\x00\x00\x00k".repeat(1 << 16);
        let bytes = [open, b"}".to_vec(), vec![b's'; 1 << 16], b".".to_vec()].concat();
        assert!(run(&bytes).expect("a pickle").0.tensors().expect("few").is_empty());
    }

    // Each dictionary contains the previous one a hundred times.
    #[test]
    fn dictionaries_that_multiply_are_refused() {
        let mut bytes = b"\x80\x02}q\x00".to_vec();
        for level in 1..10u8 {
            bytes.extend(b"}(");
            for key in 0..100u8 {
                bytes.extend([b'K', key, b'h', level - 1]);
            }
            bytes.extend([b'u', b'q', level]);
        }
        bytes.push(b'.');
        assert!(run(&bytes).expect("a pickle").0.tensors().is_err());
    }
}
