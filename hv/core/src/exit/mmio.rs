//! Instructions that touch registers in memory: decoded and executed in software.
//!
//! Those that compilers and kernels use for it: MOV, MOVZX, MOVSX, XCHG, and arithmetic with memory on one side. The
//! address is not computed: the hardware has told it. What is not known is left to the caller, with nothing changed.

use super::Around;
use crate::hw::{Platform, Reg, Segment, VcpuHw};
use crate::vcpu::{Context, Hw};
use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};

/// The instruction is not one of those that are emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotEmulated;

/// What answers at the address.
pub(super) trait Device<P: Platform> {
    /// Reads; bits above `bytes` do not count.
    fn read(&mut self, context: &mut Context<Hw<P>>, bytes: u8) -> u64;
    /// Writes.
    fn write(&mut self, context: &mut Context<Hw<P>>, bytes: u8, value: u64);
}

const LONGEST: usize = 15;
const EFER_LMA: u64 = 1 << 10;

/// Executes the instruction at RIP, whose memory operand is `device`.
pub(super) fn emulate<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    device: &mut impl Device<P>,
) -> Result<(), NotEmulated> {
    let code = context.hw.segment(Segment::Cs);
    let rip = context.hw.get(Reg::Rip);
    let long = code.attributes & (1 << 9) != 0 && context.hw.get(Reg::Efer) & EFER_LMA != 0;
    let (bitness, linear) = match (long, code.attributes & (1 << 10) != 0) {
        (true, _) => (64, rip),
        (false, big) => (if big { 32 } else { 16 }, code.base.wrapping_add(rip) & 0xffff_ffff),
    };
    let mut bytes = [0; LONGEST];
    let count = around.fetch(context, linear, &mut bytes);
    let bytes = bytes.get(..count).ok_or(NotEmulated)?;
    let instruction = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return Err(NotEmulated);
    }
    execute(context, device, &instruction)?;
    context.hw.skip_bytes(u8::try_from(instruction.len()).map_err(|_| NotEmulated)?);
    Ok(())
}

/// Two-operand arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    /// AND that only sets flags.
    Test,
    /// SUB that only sets flags.
    Cmp,
}

fn execute<P: Platform>(
    context: &mut Context<Hw<P>>,
    device: &mut impl Device<P>,
    instruction: &Instruction,
) -> Result<(), NotEmulated> {
    let bytes = match instruction.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => 1,
        MemorySize::UInt16 | MemorySize::Int16 => 2,
        MemorySize::UInt32 | MemorySize::Int32 => 4,
        MemorySize::UInt64 | MemorySize::Int64 => 8,
        _ => return Err(NotEmulated),
    };
    if instruction.op_count() != 2 {
        return Err(NotEmulated);
    }
    let to_memory = match (instruction.op0_kind(), instruction.op1_kind()) {
        (OpKind::Memory, _) => true,
        (OpKind::Register, OpKind::Memory) => false,
        _ => return Err(NotEmulated),
    };
    let register = if to_memory { instruction.op1_register() } else { instruction.op0_register() };
    let alu = match instruction.mnemonic() {
        Mnemonic::Mov if to_memory => {
            let value = operand(context, instruction)?;
            device.write(context, bytes, value);
            return Ok(());
        }
        Mnemonic::Mov | Mnemonic::Movzx => {
            let place = place(register)?;
            let value = device.read(context, bytes) & mask(bytes);
            store(context, place, value);
            return Ok(());
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let place = place(register)?;
            let value = sign_extend(device.read(context, bytes), bytes);
            store(context, place, value);
            return Ok(());
        }
        Mnemonic::Xchg => {
            let place = place(register)?;
            let new = load(context, place);
            let old = device.read(context, bytes) & mask(bytes);
            device.write(context, bytes, new);
            store(context, place, old);
            return Ok(());
        }
        Mnemonic::Add => Alu::Add,
        Mnemonic::Sub => Alu::Sub,
        Mnemonic::And => Alu::And,
        Mnemonic::Or => Alu::Or,
        Mnemonic::Xor => Alu::Xor,
        Mnemonic::Test => Alu::Test,
        Mnemonic::Cmp => Alu::Cmp,
        _ => return Err(NotEmulated),
    };
    if to_memory {
        let right = operand(context, instruction)?;
        let left = device.read(context, bytes);
        if let Some(result) = arithmetic(context, alu, left, right, bytes) {
            device.write(context, bytes, result);
        }
    } else {
        let place = place(register)?;
        let left = load(context, place);
        let right = device.read(context, bytes);
        if let Some(result) = arithmetic(context, alu, left, right, bytes) {
            store(context, place, result);
        }
    }
    Ok(())
}

const fn mask(bytes: u8) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}

const fn sign_extend(value: u64, bytes: u8) -> u64 {
    let shift = 64 - 8 * (bytes as u32);
    ((value << shift).cast_signed() >> shift).cast_unsigned()
}

/// The value of the operand that is not memory.
fn operand<H: VcpuHw>(context: &Context<H>, instruction: &Instruction) -> Result<u64, NotEmulated> {
    Ok(match instruction.op1_kind() {
        OpKind::Register => load(context, place(instruction.op1_register())?),
        OpKind::Immediate8 => u64::from(instruction.immediate8()),
        OpKind::Immediate16 => u64::from(instruction.immediate16()),
        OpKind::Immediate32 => u64::from(instruction.immediate32()),
        OpKind::Immediate8to16 => i64::from(instruction.immediate8to16()).cast_unsigned(),
        OpKind::Immediate8to32 => i64::from(instruction.immediate8to32()).cast_unsigned(),
        OpKind::Immediate8to64 => instruction.immediate8to64().cast_unsigned(),
        OpKind::Immediate32to64 => instruction.immediate32to64().cast_unsigned(),
        _ => return Err(NotEmulated),
    })
}

/// A general register or a part of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u8,
    bytes: u8,
    /// AH, CH, DH, BH.
    high: bool,
}

fn place(register: Register) -> Result<Place, NotEmulated> {
    let within = |first: Register, last: Register| {
        let (register, first, last) = (register as usize, first as usize, last as usize);
        (first..=last).contains(&register).then(|| u8::try_from(register - first).unwrap_or(u8::MAX))
    };
    let plain = |number, bytes| Ok(Place { number, bytes, high: false });
    if let Some(number) = within(Register::AL, Register::BL) {
        plain(number, 1)
    } else if let Some(number) = within(Register::AH, Register::BH) {
        Ok(Place { number, bytes: 1, high: true })
    } else if let Some(number) = within(Register::SPL, Register::R15L) {
        plain(number + 4, 1)
    } else if let Some(number) = within(Register::AX, Register::R15W) {
        plain(number, 2)
    } else if let Some(number) = within(Register::EAX, Register::R15D) {
        plain(number, 4)
    } else if let Some(number) = within(Register::RAX, Register::R15) {
        plain(number, 8)
    } else {
        Err(NotEmulated)
    }
}

fn whole<H: VcpuHw>(context: &Context<H>, number: u8) -> u64 {
    context.hw.gprs().numbered(number).unwrap_or_else(|| context.hw.get(Reg::Rsp))
}

fn load<H: VcpuHw>(context: &Context<H>, place: Place) -> u64 {
    (whole(context, place.number) >> if place.high { 8 } else { 0 }) & mask(place.bytes)
}

/// Writes a register: 32 bits clear the upper half, fewer keep what they do not reach.
fn store<H: VcpuHw>(context: &mut Context<H>, place: Place, value: u64) {
    let old = whole(context, place.number);
    let value = value & mask(place.bytes);
    let new = match place.bytes {
        4 | 8 => value,
        bytes => {
            let shift = if place.high { 8 } else { 0 };
            old & !(mask(bytes) << shift) | value << shift
        }
    };
    match context.hw.gprs_mut().numbered_mut(place.number) {
        Some(register) => *register = new,
        None => context.hw.set(Reg::Rsp, new),
    }
}

/// Computes, sets the flags, and returns the result if it is kept.
fn arithmetic<H: VcpuHw>(
    context: &mut Context<H>,
    alu: Alu,
    left: u64,
    right: u64,
    bytes: u8,
) -> Option<u64> {
    let (left, right) = (left & mask(bytes), right & mask(bytes));
    let sign = 1 << (8 * u32::from(bytes) - 1);
    let result = mask(bytes)
        & match alu {
            Alu::Add => left.wrapping_add(right),
            Alu::Sub | Alu::Cmp => left.wrapping_sub(right),
            Alu::And | Alu::Test => left & right,
            Alu::Or => left | right,
            Alu::Xor => left ^ right,
        };
    let (carry, overflow, adjust) = match alu {
        Alu::Add => {
            (result < left, (left ^ result) & (right ^ result) & sign != 0, (left ^ right ^ result) & 16)
        }
        Alu::Sub | Alu::Cmp => {
            (left < right, (left ^ right) & (left ^ result) & sign != 0, (left ^ right ^ result) & 16)
        }
        Alu::And | Alu::Or | Alu::Xor | Alu::Test => (false, false, 0),
    };
    let parity = result.to_le_bytes()[0].count_ones().is_multiple_of(2);
    let flags = u64::from(carry)
        | u64::from(parity) << 2
        | adjust
        | u64::from(result == 0) << 6
        | u64::from(result & sign != 0) << 7
        | u64::from(overflow) << 11;
    let old = context.hw.get(Reg::Rflags);
    context.hw.set(Reg::Rflags, old & !0x8d5 | flags);
    (!matches!(alu, Alu::Test | Alu::Cmp)).then_some(result)
}
