//! Hands a batch to the kernel, and reads what it says.
//!
//! In: a [`Batch`]. Out: nothing, or why the kernel refused it; then it has changed nothing. The kernel works on a batch
//! while it is sent, so the answers are there when sending is done, and nobody waits.
//!
//! Start at [`apply`].

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::thread::CapabilitySet;

use super::encode::Batch;

/// Why the kernel holds no rules of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("may not change the packet rules of this network namespace")]
    NotPermitted(#[source] io::Error),
    #[error("cannot {step}: this kernel cannot do it")]
    Unsupported { step: String, source: io::Error },
    #[error("cannot {step}{}", explanation.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused { step: String, explanation: Option<String>, source: io::Error },
    #[error("cannot talk to nf_tables")]
    Socket(#[source] io::Error),
    #[error("nf_tables did not answer")]
    NoAnswer,
}

impl Error {
    /// What the person who sees it can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotPermitted(_) => Some(
                "give the container `securityContext.capabilities.add: [NET_ADMIN]`; as another user than root it takes \
                 an image made by `hawser image` as well, for that permits the capability",
            ),
            Self::Unsupported { .. } => {
                Some("the node's kernel needs nf_tables with nat: modules nf_tables, nft_chain_nat and nft_redir")
            }
            _ => None,
        }
    }
}

/// Makes the kernel take the batch, in the network namespace of this process.
///
/// # Errors
/// The first the kernel names; nothing has changed then.
pub(super) fn apply(batch: &Batch) -> Result<(), Error> {
    raise_net_admin();
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|error| match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT) => Error::Unsupported { step: "open a netfilter socket".into(), source: error },
        _ => Error::Socket(error),
    })?;
    socket.bind_auto().map_err(Error::Socket)?;
    // Errors come with a text where the kernel has one, and without the message they are about.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    let kernel = SocketAddr::new(0, 0);
    socket.send_to(&batch.bytes, &kernel, 0).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Error::NotPermitted(error),
        _ => Error::Socket(error),
    })?;
    let mut buffer = Vec::with_capacity(ANSWER_MAX);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Error::NoAnswer),
            Err(error) => return Err(Error::Socket(error)),
        }
        for answer in answers(&buffer) {
            if answer.error != 0 {
                return Err(refusal(batch, answer));
            }
            if answer.number == batch.last() {
                return Ok(());
            }
        }
    }
}

/// Makes effective what is permitted. A process that is not root has CAP_NET_ADMIN by the file capability of the image's
/// binary, which permits and no more. Where it is not permitted, the kernel says so when it is needed.
fn raise_net_admin() {
    if let Ok(mut sets) = rustix::thread::capabilities(None) {
        sets.effective |= sets.permitted & CapabilitySet::NET_ADMIN;
        let _ = rustix::thread::set_capabilities(None, sets);
    }
}

/// An answer is a header, an error number and the header of the message it is about; texts are short.
const ANSWER_MAX: usize = 8192;

/// What the kernel said of one message.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Answer {
    number: usize,
    error: i32,
    text: Option<String>,
}

fn refusal(batch: &Batch, answer: Answer) -> Error {
    let source = io::Error::from_raw_os_error(answer.error);
    let step = batch.steps.get(answer.number).cloned().unwrap_or_else(|| "set up packet rules".into());
    match answer.error {
        libc::EPERM => Error::NotPermitted(source),
        // An unknown family or subsystem; an unknown type of chain or expression is ENOENT, for we name nothing else
        // that could be missing.
        libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT => {
            Error::Unsupported { step, source }
        }
        _ => Error::Refused { step, explanation: answer.text, source },
    }
}

const HEADER: usize = 16;

/// The answers in what was received; what does not look like one is skipped.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(length) = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= HEADER) else { break };
        answers.extend(answer(message));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn answer(message: &[u8]) -> Option<Answer> {
    if i32::from(u16_at(message, 4)?) != libc::NLMSG_ERROR {
        return None;
    }
    let flags = i32::from(u16_at(message, 6)?);
    let error = u32_at(message, HEADER)?.cast_signed().checked_neg()?;
    let about = message.get(HEADER + 4..)?;
    let number = usize::try_from(u32_at(about, 8)?).ok()?;
    // Texts follow the message they are about, of which a capped answer has only the header.
    let capped = flags & libc::NLM_F_CAPPED != 0 || error == 0;
    let skip = if capped { HEADER } else { usize::try_from(u32_at(about, 0)?).ok()?.next_multiple_of(4) };
    let text = about.get(skip..).filter(|_| flags & libc::NLM_F_ACK_TLVS != 0).and_then(text);
    Some(Answer { number, error, text })
}

/// The attribute of an answer that holds a text for people (NLMSGERR_ATTR_MSG).
fn text(mut attributes: &[u8]) -> Option<String> {
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0).map(usize::from), u16_at(attributes, 2)) {
        let value = attributes.get(4..length)?;
        if kind == 1 {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::rules::{self, Family, tests::stock};

    fn error_message(number: u32, error: i32, text: &str) -> Vec<u8> {
        let mut body = error.to_ne_bytes().to_vec();
        body.extend(20_u32.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(number.to_ne_bytes());
        body.extend([0; 4]);
        if !text.is_empty() {
            body.extend(u16::try_from(4 + text.len() + 1).unwrap().to_ne_bytes());
            body.extend(1_u16.to_ne_bytes());
            body.extend(text.as_bytes());
            body.push(0);
        }
        let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(u16::try_from(libc::NLMSG_ERROR).unwrap().to_ne_bytes());
        message.extend(u16::try_from(libc::NLM_F_CAPPED | libc::NLM_F_ACK_TLVS).unwrap().to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn reads_several_answers_in_one_datagram() {
        let bytes = [error_message(3, 0, ""), error_message(4, -libc::EINVAL, "no such thing")].concat();
        let read = answers(&bytes);
        assert_eq!(read[0], Answer { number: 3, error: 0, text: None });
        assert_eq!(read[1], Answer { number: 4, error: libc::EINVAL, text: Some("no such thing".into()) });
    }

    #[test]
    fn survives_answers_that_are_cut_off() {
        let bytes = [error_message(3, 0, ""), error_message(4, -libc::EINVAL, "no such thing")].concat();
        for end in 0..bytes.len() {
            assert!(answers(&bytes[..end]).len() <= 1 + usize::from(end > 36), "{end}");
        }
        // A length of less than its own header must not be taken as progress.
        assert_eq!(answers(&[0; 64]), []);
    }

    #[test]
    fn says_which_step_was_refused_and_whose_move_is_next() {
        let batch = Batch::replacing(&[rules::table(&stock(), Family::Ipv4)]);
        let step = batch.steps.iter().position(|step| step.contains("inbound")).unwrap();
        let error = refusal(&batch, Answer { number: step, error: libc::ENOENT, text: None });
        assert_eq!(error.to_string(), "cannot add nat chain ip hawser inbound: this kernel cannot do it");
        assert!(error.hint().unwrap().contains("nft_chain_nat"));
        let error = refusal(&batch, Answer { number: 0, error: libc::EPERM, text: None });
        assert!(error.hint().unwrap().contains("NET_ADMIN"));
    }
}
