//! Seeded choices without state: the same seed and the same place in the tape give the same choice, whatever ran before.
//!
//! That is what makes a run repeatable although clients come and go at their own pace. Next: `tape.rs`.

/// Mixes a seed and the coordinates of a choice into 64 well-spread bits (SplitMix64 finaliser per coordinate).
pub fn mix(seed: u64, coordinates: &[u64]) -> u64 {
    let mut state = splitmix(seed);
    for coordinate in coordinates {
        state = splitmix(state ^ coordinate.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }
    state
}

/// A choice in `0..below` (`below` > 0).
pub fn pick(seed: u64, coordinates: &[u64], below: u64) -> u64 {
    mix(seed, coordinates) % below
}

/// As [`pick`], for the signed numbers the wire speaks.
pub fn pick_i64(seed: u64, coordinates: &[u64], below: u32) -> i64 {
    pick(seed, coordinates, u64::from(below)).cast_signed()
}

/// Whether an event of this probability (0–1) happens here.
pub fn happens(seed: u64, coordinates: &[u64], probability: f64) -> bool {
    // 53 bits are what an f64 holds exactly.
    let drawn = (mix(seed, coordinates) >> 11) as f64 / (1_u64 << 53) as f64;
    drawn < probability
}

/// A number for a name, to be used as a coordinate.
pub fn of_text(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

fn splitmix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probability_is_kept_over_many_places() {
        let hits = (0..100_000).filter(|place| happens(7, &[1, *place], 0.01)).count();
        assert!((900..1_100).contains(&hits), "{hits}");
    }

    #[test]
    fn same_place_same_choice() {
        assert_eq!(mix(1, &[2, 3]), mix(1, &[2, 3]));
        assert_ne!(mix(1, &[2, 3]), mix(1, &[3, 2]));
    }
}
