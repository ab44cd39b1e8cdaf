//! Judges whether the running binary can be all there is in an image: a Linux program without shared libraries.
//!
//! In: the bytes of the program. Out: the architecture, as images call it, or why not.

use anyhow::Context as _;

/// Why a program cannot run alone in an image.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(in crate::cli) enum Unfit {
    #[error("it needs the shared libraries of this machine (it is started by {0}), and the image would hold none")]
    Dynamic(String),
    #[error("it is not a program for Linux")]
    NotLinux,
    #[error("its processor architecture ({0}) is none that images have a name for here")]
    UnknownArchitecture(u16),
}

impl Unfit {
    /// What the person who sees it can do.
    pub(in crate::cli) fn hint(&self) -> &'static str {
        match self {
            Self::Dynamic(_) => "use the binary of a release, or the one that `make build` makes",
            Self::NotLinux | Self::UnknownArchitecture(_) => {
                "run `hawser image` with the Linux binary of a release, on Linux"
            }
        }
    }
}

/// The running program: where it is, for messages, and its bytes.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn running() -> anyhow::Result<(String, Vec<u8>)> {
    // On Linux this is the very file that runs, even when its name holds another by now.
    let itself = std::path::Path::new("/proc/self/exe");
    let name = std::env::current_exe().context("cannot find the running binary")?;
    let file = if itself.exists() { itself } else { &name };
    let bytes = std::fs::read(file).with_context(|| format!("cannot read the running binary {}", name.display()))?;
    Ok((name.display().to_string(), bytes))
}

/// The architecture a program is for.
///
/// # Errors
/// Where it could not run in an image that holds nothing else.
pub(super) fn architecture(program: &[u8]) -> Result<&'static str, Unfit> {
    // ELF of 64 bits, little endian: all that we build for.
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return Err(Unfit::NotLinux);
    }
    if let Some(interpreter) = interpreter(program) {
        return Err(Unfit::Dynamic(interpreter));
    }
    match u16_at(program, 18).ok_or(Unfit::NotLinux)? {
        62 => Ok("amd64"),
        183 => Ok("arm64"),
        other => Err(Unfit::UnknownArchitecture(other)),
    }
}

/// The program header of type PT_INTERP names the loader of shared libraries. A static program has none.
fn interpreter(program: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let table = usize::try_from(u64_at(program, 32)?).ok()?;
    let (size, count) = (usize::from(u16_at(program, 54)?), usize::from(u16_at(program, 56)?));
    for index in 0..count {
        let header = program.get(table.checked_add(index * size)?..)?;
        if u32_at(header, 0)? == PT_INTERP {
            let (start, length) =
                (usize::try_from(u64_at(header, 8)?).ok()?, usize::try_from(u64_at(header, 32)?).ok()?);
            let name = program.get(start..start.checked_add(length)?)?;
            return Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a program for `machine`, with one program header of type `kind` that names a loader.
    pub(super) fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut program = vec![0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[18..20].copy_from_slice(&machine.to_le_bytes());
        program[32..40].copy_from_slice(&64_u64.to_le_bytes());
        program[54..56].copy_from_slice(&56_u16.to_le_bytes());
        program[56..58].copy_from_slice(&1_u16.to_le_bytes());
        program[64..68].copy_from_slice(&kind.to_le_bytes());
        program[72..80].copy_from_slice(&120_u64.to_le_bytes());
        program[96..104].copy_from_slice(&9_u64.to_le_bytes());
        program.extend(b"/lib/ld.0");
        program
    }

    #[test]
    fn takes_static_programs_by_the_name_images_have_for_their_machine() {
        assert_eq!(architecture(&program(62, 1)), Ok("amd64"));
        assert_eq!(architecture(&program(183, 1)), Ok("arm64"));
    }

    #[test]
    fn refuses_what_could_not_run_alone() {
        assert_eq!(architecture(&program(62, 3)), Err(Unfit::Dynamic("/lib/ld.0".into())));
        assert_eq!(architecture(&program(8, 1)), Err(Unfit::UnknownArchitecture(8)));
        assert_eq!(architecture(b"\xcf\xfa\xed\xfe"), Err(Unfit::NotLinux));
        assert_eq!(architecture(&program(62, 3)[..17]), Err(Unfit::NotLinux));
    }
}
