use super::*;

/// Made by PyTorch 2 from
/// ```text
/// t = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
/// sd = OrderedDict(w=t, wt=t.transpose(0, 2), h=torch.tensor([1.5, -2.]).half(), b=torch.tensor([1.5]).bfloat16(), n=torch.tensor(7),
///                  e=torch.zeros(0, 3))
/// m = torch.nn.Linear(2, 1)
/// torch.save({"ema": {"decay": .999, "num_updates": 70000, "shadow_params": [p for p in m.parameters()]}, "model": m.state_dict(),
///             "optimizer": {"state": {0: {"step": 1, "exp_avg": t}}, "param_groups": [{"lr": 1e-4, "betas": (.9, .999), "params": [0, 1]}]},
///             "step": 12345678901, "net": sd, "none": None, "flag": True}, "example.pt")
/// ```
const EXAMPLE: &[u8] = include_bytes!("example.pt");

fn open(bytes: &[u8]) -> Result<TorchFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.pt");
    std::fs::write(&path, bytes).unwrap();
    TorchFile::read(&path)
}

#[test]
fn groups_and_tensors() {
    let file = open(EXAMPLE).unwrap();
    assert_eq!(file.groups(), ["ema.shadow_params", "model", "optimizer.state.0", "net"]);
    let net = file.tensor_file(file.tensors("net").unwrap());
    let count: Vec<f32> = (0..24).map(|v| v as f32).collect();
    assert_eq!(net.f32s("w").unwrap(), (&[2, 3, 4][..], &count[..]));
    let (shape, turned) = net.f32s("wt").unwrap();
    assert_eq!((shape, &turned[..4]), (&[4, 3, 2][..], &[0.0, 12.0, 4.0, 16.0][..]));
    assert_eq!(net.f32s("h").unwrap(), (&[2][..], &[1.5, -2.0][..]));
    assert_eq!(net.f32s("b").unwrap(), (&[1][..], &[1.5][..]));
    assert_eq!(net.i64s("n").unwrap(), (&[][..], &[7][..]));
    assert_eq!(net.f32s("e").unwrap(), (&[0, 3][..], &[][..]));
    let (model, averaged) = (file.tensors("model").unwrap(), file.tensors("ema.shadow_params").unwrap());
    assert_eq!((model[0].0.as_str(), model[1].0.as_str(), averaged[0].0.as_str()), ("weight", "bias", "0"));
    assert_eq!((&model[0].1, &model[1].1), (&averaged[0].1, &averaged[1].1));
    assert!(file.tensors("teacher").unwrap_err().to_string().contains("ema.shadow_params, model"));
}

/// The same bytes with another name of the same length in the pickle.
#[test]
fn code_is_refused() {
    let from = b"collections\nOrderedDict";
    let at = EXAMPLE.windows(from.len()).position(|w| w == from).unwrap();
    let mut bytes = EXAMPLE.to_vec();
    bytes[at..at + from.len()].copy_from_slice(b"subprocess1\ncheck_callx");
    let error = open(&bytes).err().unwrap().to_string();
    assert!(error.contains("net.pt") && error.contains("subprocess1.check_callx") && error.contains("never run"), "{error}");
}

#[test]
fn damage_is_an_error_and_no_panic() {
    for cut in 0..EXAMPLE.len() {
        assert!(open(&EXAMPLE[..cut]).is_err(), "{cut}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.pt");
    for i in 0..EXAMPLE.len() {
        let mut bytes = EXAMPLE.to_vec();
        bytes[i] ^= 0x41;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(file) = TorchFile::read(&path) {
            file.groups().iter().for_each(|group| drop(file.tensors(group)));
        }
    }
    assert!(is_torch_file(&path).unwrap() && !is_torch_file(Path::new(file!())).unwrap_or(false));
}

/// An archive with this pickle alone.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let size = (pickle.len() as u32).to_le_bytes();
    let sizes = [&size[..], &size, &[8, 0, 0, 0]].concat();
    let local = [b"PK\x03\x04", &[0; 14][..], &sizes, b"data.pkl", pickle].concat();
    let entry = [b"PK\x01\x02", &[0; 16][..], &sizes, &[0; 14], b"data.pkl"].concat();
    let end = [b"PK\x05\x06", &[0; 4][..], &[1, 0, 1, 0, 54, 0, 0, 0], &(local.len() as u32).to_le_bytes(), &[0; 2]].concat();
    [local, entry, end].concat()
}

#[test]
fn hostile_pickles_are_errors_or_empty() {
    let nested = [b"\x80\x02".to_vec(), vec![b']'; 1 << 20], vec![b'a'; (1 << 20) - 1], b".".to_vec()].concat();
    assert_eq!(open(&archive(&nested)).unwrap().groups(), [""; 0]);
    let in_itself = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.";
    assert_eq!(open(&archive(in_itself)).unwrap().groups(), [""; 0]);
    for (pickle, says) in [
        (&b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R."[..], "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"(S'ls'\nios\nsystem\n.", "operation 0x53"),
        (b"\x80\x02(ios\nsystem\n.", "operation 0x69"),
        (b"\x80\x02}}b", "the pickle ends here"),
        (b"\x80\x02K\x01K\x02\x86Q.", "no storage of numbers"),
        (b"\x80\x02ctorch\nSize\n)R.", "arguments that it does not have"),
        (b"\x80\x02h\x07.", "a reference to nothing"),
        (b"\x80\x02.", "without its operand"),
    ] {
        let error = open(&archive(pickle)).err().unwrap().to_string();
        assert!(error.contains("net.pt") && error.contains(says), "{error} does not say {says}");
    }
}
