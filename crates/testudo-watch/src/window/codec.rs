//! Windows as bytes: what a proxy sends to control.
//!
//! A part is a version, a table of names, and tagged records that refer to names by number (0: none).
//! Integers are LEB128. A window is split into parts of bounded size, each of which can be read alone.
//! Reading trusts nothing: every count is bounded by what is there, and every table by its limit.

use std::net::IpAddr;

use indexmap::IndexSet;
use testudo_model::{Hop, Reason};

use super::counts::{Counts, Dropped, Limits};
use super::sketch::{Distinct, Heavy, HeavyKey, Quantiles};
use super::stats::{
    CallStats, CredentialStats, EdgeStats, OperationKey, OperationStats, Outcome, Outcomes,
    PrincipalStats, Samples, StatusClass, Statuses,
};
use super::{CallKey, EdgeKey, Name, Principal, PrincipalKey, WINDOW_SECONDS, Who, Window};

/// Changes when the encoding does; control refuses others, and counts them.
const VERSION: u8 = 1;
/// A part is closed when it has grown to this; one record more may still fit in.
const PART_BYTES: usize = 256 * 1024;
/// No part is larger: one principal with everything takes less than the difference.
pub const MAX_PART_BYTES: usize = 512 * 1024;
/// No count is larger than what a window can hold: sums of what a lying proxy sends do not overflow.
const MAX_COUNT: u64 = 1 << 40;
/// No other number is larger; moments in microseconds are not.
const MAX_NUMBER: u64 = 1 << 52;
/// Longest name.
const MAX_TEXT: usize = 4096;

const TOTALS: u8 = 1;
const EDGE: u8 = 2;
const PRINCIPAL: u8 = 3;
const CREDENTIAL: u8 = 4;
const CALL: u8 = 5;
const HEAVY: u8 = 6;

/// Why bytes are not a part of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another version of the encoding.
    #[error("the window has encoding {0}, not {VERSION}")]
    Version(u8),
    /// The bytes end early, or say what cannot be.
    #[error("the window is not readable")]
    Malformed,
    /// More than a proxy may send.
    #[error("the window is over a limit")]
    TooLarge,
}

impl Window {
    /// The window as parts, each of at most [`MAX_PART_BYTES`].
    pub fn encode(&self) -> Vec<Vec<u8>> {
        let counts = &self.counts;
        let mut parts = Parts::new(self);
        parts.record(TOTALS, |writer| {
            writer.number(counts.events);
            counts.dropped.put(writer);
        });
        for (number, heavy) in [&counts.paths, &counts.addresses, &counts.users]
            .into_iter()
            .enumerate()
        {
            parts.record(HEAVY, |writer| {
                writer.size(number);
                heavy.put(writer);
            });
        }
        for (key, stats) in &counts.edges {
            parts.record(EDGE, |writer| {
                key.put(writer);
                stats.put(writer);
            });
        }
        for (key, stats) in &counts.principals {
            parts.record(PRINCIPAL, |writer| {
                key.put(writer);
                stats.put(writer);
            });
        }
        for (key, stats) in &counts.credentials {
            parts.record(CREDENTIAL, |writer| {
                writer.bytes(&key.to_be_bytes());
                stats.put(writer);
            });
        }
        for (key, stats) in &counts.calls {
            parts.record(CALL, |writer| {
                key.put(writer);
                stats.put(writer);
            });
        }
        parts.finish()
    }

    /// Reads one part.
    ///
    /// # Errors
    /// The bytes are none, or are over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Window, DecodeError> {
        if bytes.len() > MAX_PART_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let mut reader = Reader::new(bytes)?;
        let mut window = Window {
            start: reader.number()?,
            proxy: reader.name()?,
            proxy_started: reader.number()?,
            revision: reader.number()?,
            counts: Counts::default(),
        };
        if !window.start.is_multiple_of(WINDOW_SECONDS) {
            return Err(DecodeError::Malformed);
        }
        while !reader.rest.is_empty() {
            read_record(&mut reader, &mut window.counts)?;
        }
        Ok(window)
    }
}

fn read_record(reader: &mut Reader<'_>, counts: &mut Counts) -> Result<(), DecodeError> {
    let limits = &Limits::PROXY;
    match reader.byte()? {
        TOTALS => {
            counts.events = counts.events.saturating_add(reader.count()?);
            counts.dropped.merge(&Dropped::take(reader)?);
        }
        EDGE => {
            let key = EdgeKey::take(reader)?;
            counts.absorb_edge(key, EdgeStats::take(reader)?, limits);
        }
        PRINCIPAL => {
            let key = PrincipalKey::take(reader)?;
            counts.absorb_principal(key, PrincipalStats::take(reader)?, limits);
        }
        CREDENTIAL => {
            let key = u64::from_be_bytes(reader.array()?);
            counts.absorb_credential(key, CredentialStats::take(reader)?, limits);
        }
        CALL => {
            let key = CallKey::take(reader)?;
            counts.absorb_call(key, CallStats::take(reader)?, limits);
        }
        HEAVY => {
            let which = match reader.number()? {
                0 => &mut counts.paths,
                1 => &mut counts.addresses,
                2 => &mut counts.users,
                _ => return Err(DecodeError::Malformed),
            };
            which.merge(&Heavy::take(reader)?);
        }
        _ => return Err(DecodeError::Malformed),
    }
    Ok(())
}

/// Parts as they are filled.
struct Parts<'w> {
    window: &'w Window,
    writer: Writer,
    done: Vec<Vec<u8>>,
}

impl<'w> Parts<'w> {
    fn new(window: &'w Window) -> Parts<'w> {
        Parts {
            window,
            writer: Writer::begin(window),
            done: Vec::new(),
        }
    }

    fn record(&mut self, tag: u8, put: impl FnOnce(&mut Writer)) {
        if self.writer.body.len() + self.writer.name_bytes > PART_BYTES {
            let full = std::mem::replace(&mut self.writer, Writer::begin(self.window));
            self.done.push(full.finish());
        }
        self.writer.byte(tag);
        put(&mut self.writer);
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.done.push(self.writer.finish());
        self.done
    }
}

#[derive(Default)]
struct Writer {
    names: IndexSet<Box<str>, ahash::RandomState>,
    name_bytes: usize,
    body: Vec<u8>,
}

impl Writer {
    fn begin(window: &Window) -> Writer {
        let mut writer = Writer::default();
        writer.number(window.start);
        writer.name(&window.proxy);
        writer.number(window.proxy_started);
        writer.number(window.revision);
        writer
    }

    fn finish(self) -> Vec<u8> {
        let mut head = Writer::default();
        head.byte(VERSION);
        head.size(self.names.len());
        for name in &self.names {
            head.text(name);
        }
        head.body.extend_from_slice(&self.body);
        head.body
    }

    fn byte(&mut self, byte: u8) {
        self.body.push(byte);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.byte(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.byte(u8::try_from(number).unwrap_or(0));
    }

    fn size(&mut self, size: usize) {
        self.number(u64::try_from(size).unwrap_or(u64::MAX));
    }

    fn text(&mut self, text: &str) {
        self.size(text.len());
        self.bytes(text.as_bytes());
    }

    fn name(&mut self, name: &str) {
        let place = match self.names.get_index_of(name) {
            Some(place) => place,
            None => {
                self.name_bytes += name.len() + 2;
                self.names.insert_full(name.into()).0
            }
        };
        self.size(place + 1);
    }

    fn optional(&mut self, name: Option<&Name>) {
        match name {
            Some(name) => self.name(name),
            None => self.byte(0),
        }
    }
}

struct Reader<'b> {
    names: Vec<Name>,
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Result<Reader<'b>, DecodeError> {
        let mut reader = Reader {
            names: Vec::new(),
            rest: bytes,
        };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        for _ in 0..reader.size()? {
            let name = Name::from(reader.text()?);
            reader.names.push(name);
        }
        Ok(reader)
    }

    fn bytes(&mut self, length: usize) -> Result<&'b [u8], DecodeError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| DecodeError::Malformed)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f)
                .checked_shl(shift)
                .ok_or(DecodeError::Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed)
    }

    fn count(&mut self) -> Result<u64, DecodeError> {
        Ok(self.number()?.min(MAX_COUNT))
    }

    /// How many follow: each takes a byte at least.
    fn size(&mut self) -> Result<usize, DecodeError> {
        let size = usize::try_from(self.number()?).map_err(|_| DecodeError::Malformed)?;
        if size > self.rest.len() {
            return Err(DecodeError::Malformed);
        }
        Ok(size)
    }

    fn text(&mut self) -> Result<&'b str, DecodeError> {
        let length = self.size()?;
        if length > MAX_TEXT {
            return Err(DecodeError::TooLarge);
        }
        std::str::from_utf8(self.bytes(length)?).map_err(|_| DecodeError::Malformed)
    }

    fn optional(&mut self) -> Result<Option<Name>, DecodeError> {
        let number = self.number()?;
        if number == 0 {
            return Ok(None);
        }
        let place = usize::try_from(number - 1).map_err(|_| DecodeError::Malformed)?;
        let name = self.names.get(place).ok_or(DecodeError::Malformed)?;
        Ok(Some(name.clone()))
    }

    fn name(&mut self) -> Result<Name, DecodeError> {
        self.optional()?.ok_or(DecodeError::Malformed)
    }
}

/// What can be written and read.
trait Wire: Sized {
    fn put(&self, writer: &mut Writer);
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Structures are their fields, in order.
macro_rules! wire_fields {
    ($($type:ident { $($field:ident),+ $(,)? })+) => {
        $(impl Wire for $type {
            fn put(&self, writer: &mut Writer) {
                $(self.$field.put(writer);)+
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok($type { $($field: Wire::take(reader)?,)+ })
            }
        })+
    };
}

wire_fields! {
    Dropped { edges, principals, operations, credentials, calls }
    EdgeKey { hop, caller, service, operation }
    EdgeStats {
        outcomes, statuses, duration_us, guard_us, bytes_in, bytes_out, with_user, anonymous,
        without_user, users, paths, addresses, revision, last_us, samples,
    }
    PrincipalKey { hop, principal }
    OperationKey { service, operation }
    OperationStats { outcomes, statuses, paths, bytes_out, samples }
    CredentialStats { user, requests, addresses, agents, sample }
    CallKey { hop, caller, service, operation, who }
    CallStats { permitted, denied, reported, unfit, last_us }
}

impl Wire for u64 {
    fn put(&self, writer: &mut Writer) {
        writer.number(*self);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(reader.number()?.min(MAX_NUMBER))
    }
}

impl Wire for Name {
    fn put(&self, writer: &mut Writer) {
        writer.name(self);
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.name()
    }
}

impl Wire for Option<Name> {
    fn put(&self, writer: &mut Writer) {
        writer.optional(self.as_ref());
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.optional()
    }
}

/// A request id: a UUID as 16 bytes, others as text.
impl Wire for Option<Box<str>> {
    fn put(&self, writer: &mut Writer) {
        match self.as_deref() {
            None => writer.byte(0),
            Some(id) => put_id(writer, id),
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.byte()? {
            0 => None,
            1 => Some(uuid::Uuid::from_bytes(reader.array()?).to_string().into()),
            2 => Some(reader.text()?.into()),
            _ => return Err(DecodeError::Malformed),
        })
    }
}

fn put_id(writer: &mut Writer, id: &str) {
    let mut buffer = uuid::Uuid::encode_buffer();
    match uuid::Uuid::try_parse(id) {
        Ok(uuid) if *uuid.hyphenated().encode_lower(&mut buffer) == *id => {
            writer.byte(1);
            writer.bytes(uuid.as_bytes());
        }
        Ok(_) | Err(_) => {
            writer.byte(2);
            writer.text(id);
        }
    }
}

impl Wire for Hop {
    fn put(&self, writer: &mut Writer) {
        writer.byte(match self {
            Hop::Edge => 0,
            Hop::Mesh => 1,
        });
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.byte()? {
            0 => Ok(Hop::Edge),
            1 => Ok(Hop::Mesh),
            _ => Err(DecodeError::Malformed),
        }
    }
}

impl Wire for Outcome {
    fn put(&self, writer: &mut Writer) {
        match self {
            Outcome::Permitted => writer.byte(0),
            Outcome::Denied(reason) => {
                writer.byte(1);
                writer.name(reason.code());
            }
            Outcome::Reported(reason) => {
                writer.byte(2);
                writer.name(reason.code());
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.byte()?;
        if kind == 0 {
            return Ok(Outcome::Permitted);
        }
        let reason = Reason::from_code(&reader.name()?).ok_or(DecodeError::Malformed)?;
        match kind {
            1 => Ok(Outcome::Denied(reason)),
            2 => Ok(Outcome::Reported(reason)),
            _ => Err(DecodeError::Malformed),
        }
    }
}

impl Wire for Outcomes {
    fn put(&self, writer: &mut Writer) {
        writer.size(self.iter().count());
        for (outcome, count) in self.iter() {
            outcome.put(writer);
            writer.number(count);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut outcomes = Outcomes::default();
        for _ in 0..reader.size()? {
            outcomes.add(Outcome::take(reader)?, reader.count()?);
        }
        Ok(outcomes)
    }
}

impl Wire for Statuses {
    fn put(&self, writer: &mut Writer) {
        let used = StatusClass::ALL.map(|class| self.of(class) > 0);
        let bits = used
            .iter()
            .rev()
            .fold(0, |bits, used| bits << 1 | u64::from(*used));
        writer.number(bits);
        for class in StatusClass::ALL {
            if self.of(class) > 0 {
                writer.number(self.of(class));
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut bits = reader.number()?;
        let mut statuses = Statuses::default();
        for class in StatusClass::ALL {
            if bits & 1 == 1 {
                statuses.add(class, reader.count()?);
            }
            bits >>= 1;
        }
        Ok(statuses)
    }
}

impl Wire for Samples {
    fn put(&self, writer: &mut Writer) {
        writer.size(self.iter().count());
        for (outcome, id) in self.iter() {
            outcome.put(writer);
            put_id(writer, id);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut samples = Samples::default();
        for _ in 0..reader.size()? {
            let outcome = Outcome::take(reader)?;
            let id: Option<Box<str>> = Wire::take(reader)?;
            if let Some(id) = id {
                samples.add(outcome, &id);
            }
        }
        Ok(samples)
    }
}

/// Buckets as the distance from the one before.
impl Wire for Quantiles {
    fn put(&self, writer: &mut Writer) {
        let (buckets, max) = self.parts();
        writer.number(max);
        writer.size(buckets.len());
        let mut before = 0;
        for (bucket, count) in buckets {
            writer.number(u64::from(bucket - before));
            writer.number(u64::from(*count));
            before = *bucket;
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let max = reader.number()?;
        let mut buckets = Vec::new();
        let mut bucket = 0_u16;
        for _ in 0..reader.size()? {
            let distance = u16::try_from(reader.number()?).map_err(|_| DecodeError::Malformed)?;
            bucket = bucket.checked_add(distance).ok_or(DecodeError::Malformed)?;
            let count = u32::try_from(reader.number()?).map_err(|_| DecodeError::Malformed)?;
            buckets.push((bucket, count));
        }
        Ok(Quantiles::from_parts(buckets.into_iter(), max))
    }
}

/// Few: how many, and four bytes each. Many: [`MANY`], and the registers.
impl Wire for Distinct {
    fn put(&self, writer: &mut Writer) {
        match self.parts() {
            Ok(hashes) => {
                writer.byte(u8::try_from(hashes.len()).unwrap_or(MANY));
                for hash in hashes {
                    writer.bytes(&hash.to_be_bytes());
                }
            }
            Err(registers) => {
                writer.byte(MANY);
                writer.bytes(registers);
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.byte()?;
        if count == MANY {
            let registers: [u8; 512] = reader.array()?;
            return Distinct::from_registers(&registers).ok_or(DecodeError::Malformed);
        }
        let mut distinct = Distinct::default();
        for _ in 0..count {
            distinct.add(u32::from_be_bytes(reader.array()?));
        }
        Ok(distinct)
    }
}

const MANY: u8 = u8::MAX;

impl Wire for Heavy {
    fn put(&self, writer: &mut Writer) {
        writer.number(self.error());
        let all = self.top(usize::MAX);
        writer.size(all.len());
        for (key, count) in all {
            key.scope.put(writer);
            writer.text(&key.name);
            writer.number(count);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut heavy = Heavy::default();
        heavy.add_error(reader.count()?);
        for _ in 0..reader.size()? {
            let scope = reader.optional()?;
            let name = reader.text()?.into();
            heavy.insert(HeavyKey { scope, name }, reader.count()?);
        }
        Ok(heavy)
    }
}

impl Wire for Principal {
    fn put(&self, writer: &mut Writer) {
        match self {
            Principal::User(name) => {
                writer.byte(0);
                writer.name(name);
            }
            Principal::Service(name) => {
                writer.byte(1);
                writer.name(name);
            }
            Principal::Address(IpAddr::V4(address)) => {
                writer.byte(4);
                writer.bytes(&address.octets());
            }
            Principal::Address(IpAddr::V6(address)) => {
                writer.byte(6);
                writer.bytes(&address.octets());
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.byte()? {
            0 => Principal::User(reader.name()?),
            1 => Principal::Service(reader.name()?),
            4 => Principal::Address(IpAddr::from(reader.array::<4>()?)),
            6 => Principal::Address(IpAddr::from(reader.array::<16>()?)),
            _ => return Err(DecodeError::Malformed),
        })
    }
}

impl Wire for Who {
    fn put(&self, writer: &mut Writer) {
        match self {
            Who::Nobody => writer.byte(0),
            Who::Anonymous => writer.byte(1),
            Who::Roles(roles) => {
                writer.byte(2);
                writer.size(roles.len());
                roles.iter().for_each(|role| writer.name(role));
            }
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.byte()? {
            0 => Who::Nobody,
            1 => Who::Anonymous,
            2 => {
                let mut roles = Vec::new();
                for _ in 0..reader.size()? {
                    roles.push(reader.name()?);
                }
                roles.sort_unstable();
                Who::Roles(roles)
            }
            _ => return Err(DecodeError::Malformed),
        })
    }
}

impl Wire for PrincipalStats {
    fn put(&self, writer: &mut Writer) {
        writer.size(self.operations.len());
        for (key, stats) in &self.operations {
            key.put(writer);
            stats.put(writer);
        }
        for distinct in [
            &self.unknown_paths,
            &self.addresses,
            &self.agents,
            &self.credentials_right,
            &self.credentials_wrong,
            &self.users,
        ] {
            distinct.put(writer);
        }
    }
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut stats = PrincipalStats::default();
        for _ in 0..reader.size()? {
            if stats.operations.len() >= Limits::PROXY.operations {
                return Err(DecodeError::TooLarge);
            }
            let key = OperationKey::take(reader)?;
            stats.operations.insert(key, OperationStats::take(reader)?);
        }
        for distinct in [
            &mut stats.unknown_paths,
            &mut stats.addresses,
            &mut stats.agents,
            &mut stats.credentials_right,
            &mut stats.credentials_wrong,
            &mut stats.users,
        ] {
            *distinct = Distinct::take(reader)?;
        }
        Ok(stats)
    }
}
