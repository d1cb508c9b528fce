//! What a subscriber hears: deliveries, each judged as it comes, and in channels the answers to commands.
//!
//! Not tied to a work: a ring listens whatever it does, as it answers pings whatever it does.

use super::Ring;
use super::peer::Phase;
use crate::channels::{self, Said};
use crate::target::Speech;
use crate::topic::Delivered;
use crate::wire::{self, Heard, hear};
use megasock::proto::client;
use megasock::proto::frame::Opcode;

/// Why a connection cannot go on.
type Fault = String;

impl Ring {
    /// Asks for the channel of this run.
    pub(super) fn subscribe(&mut self, slot: u32) {
        self.peers[slot as usize].phase = Phase::Joining;
        let mut bytes = Vec::new();
        let command = channels::subscribe(&self.spec.target.topic.channel);
        wire::frame(&mut bytes, self.number(slot) as u32, 0, command.as_bytes());
        self.say(slot, bytes);
    }

    /// Reads what came on a connection that listens.
    pub(super) fn listen(&mut self, slot: u32, mut input: &[u8]) {
        let mut said = Vec::new();
        let fault = loop {
            match hear(&mut self.peers[slot as usize].partial, &mut input) {
                Ok(None) => break None,
                Ok(Some(Heard::Data { bytes, at: 0, last: true })) => {
                    if let Err(fault) = self.hear_message(slot, bytes, &mut said) {
                        break Some(fault);
                    }
                }
                Ok(Some(Heard::Data { bytes, last, .. })) => {
                    self.pieces.entry(slot).or_default().extend_from_slice(bytes);
                    if last
                        && let Some(whole) = self.pieces.remove(&slot)
                        && let Err(fault) = self.hear_message(slot, &whole, &mut said)
                    {
                        break Some(fault);
                    }
                }
                Ok(Some(Heard::Ping(body))) => {
                    self.tally.pings += 1;
                    let key = (self.number(slot) as u32).to_le_bytes();
                    client::encode_masked(&mut said, Opcode::Pong, key, &body);
                }
                Ok(Some(Heard::Pong)) => {}
                Ok(Some(Heard::Close(code))) => return self.closed_by_server(slot, code),
                Err(_) => break Some("not a WebSocket frame".to_owned()),
            }
        };
        if let Some(fault) = fault {
            return self.end_because(slot, fault);
        }
        if !said.is_empty() {
            self.say(slot, said);
        }
    }

    /// The server has closed. A client that comes back answers as RFC 6455 §5.5.1 asks.
    fn closed_by_server(&mut self, slot: u32, code: Option<u16>) {
        if self.returning().is_none() {
            return self.end_because(slot, "closed by the server".to_owned());
        }
        let body = code.map(u16::to_be_bytes).unwrap_or_default();
        let mut bytes = Vec::new();
        let key = (self.number(slot) as u32).to_le_bytes();
        client::encode_masked(&mut bytes, Opcode::Close, key, if code.is_some() { &body } else { &[] });
        self.say(slot, bytes);
        let reason = code.map_or("close".to_owned(), |code| format!("close {code}"));
        self.client_ended(slot, reason, code, false);
    }

    /// One whole message; what follows from it is appended to `reply`.
    fn hear_message(&mut self, slot: u32, text: &[u8], reply: &mut Vec<u8>) -> Result<(), Fault> {
        let said = match self.spec.target.speech {
            Speech::Channels => channels::hear(text),
            _ => Some(channels::plain(text)),
        };
        let Some(said) = said else {
            self.tally.mismatched += 1;
            return Err("not a frame of the channel protocol".to_owned());
        };
        let joining = self.peers[slot as usize].phase == Phase::Joining;
        match said {
            Said::Delivery { data, offset } => return self.delivered(slot, data, offset),
            Said::Subscribed { last_offset } if joining => {
                self.peers[slot as usize].next = self.spec.target.topic.first_for(Some(last_offset));
                self.opened(slot);
            }
            Said::Pong(number) => {
                let peer = &mut self.peers[slot as usize];
                if peer.outstanding() == 0 || number != peer.heard {
                    self.tally.mismatched += 1;
                    return Err("a pong nobody asked for".to_owned());
                }
                peer.heard = peer.heard.wrapping_add(1);
                self.answered(slot, 1, reply);
            }
            Said::Gap { to } => {
                self.tally.gaps += 1;
                let peer = &mut self.peers[slot as usize];
                peer.next = peer.next.max(self.spec.target.topic.after_gap(to));
            }
            Said::Welcome => self.welcomed(slot),
            Said::Shutdown { delay_ms } => self.hinted(slot, delay_ms, true),
            Said::ComeBack { delay_ms } if self.returning().is_some() => self.hinted(slot, delay_ms, false),
            Said::ComeBack { delay_ms } => return Err(format!("refused for {delay_ms} ms")),
            Said::Refused(code) => return Err(format!("a command was refused: {code}")),
            Said::Subscribed { .. } | Said::Other => {}
        }
        Ok(())
    }

    fn delivered(&mut self, slot: u32, data: &[u8], offset: Option<u64>) -> Result<(), Fault> {
        let topic = &self.spec.target.topic;
        let peer = &mut self.peers[slot as usize];
        match topic.judge(&mut self.payloads, peer.next, data, offset) {
            Delivered::Right(number) => {
                if peer.phase != Phase::Open {
                    self.tally.misdelivered += 1;
                    return Err("a delivery before the subscription".to_owned());
                }
                peer.next = number + 1;
                self.tally.deliveries += 1;
                let due_us = topic.arrive(number, self.now_us, self.spec.ring);
                self.delivery_us.saturating_record(self.now_us.saturating_sub(due_us));
                Ok(())
            }
            Delivered::Foreign => Ok(()),
            Delivered::Wrong(why) => {
                self.tally.misdelivered += 1;
                Err(why.to_owned())
            }
        }
    }
}
