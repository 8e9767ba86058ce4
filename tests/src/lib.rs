//! The tests of the whole: architecture, contract, end to end, faults. One binary per tier beside this folder; nothing is in here.
