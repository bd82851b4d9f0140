//! An allocator that counts: for each thread what it allocates, and for all lanes of this process together.
#![allow(unsafe_code, reason = "an allocator can be written in no other way")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the threads of lanes are called.
const LANE: &[u8] = b"postern-lane";

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static OF_LANES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// How often the calling thread has allocated.
pub(crate) fn of_this_thread() -> u64 {
    COUNT.get()
}

/// Bytes that the calling thread has allocated, less those that it has freed.
pub(crate) fn live_bytes() -> i64 {
    LIVE.get()
}

/// How often lanes have allocated.
pub(crate) fn of_lanes() -> u64 {
    OF_LANES.load(Ordering::SeqCst)
}

/// Whether the calling thread is a lane's. Asked anew each time, as a thread gets its name when it runs already.
fn is_lane() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes to the address.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(LANE)
}

fn note(taken: usize, given: usize) {
    // A thread that ends has none of these any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + taken as i64 - given as i64));
    if taken > 0 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        if is_lane() {
            OF_LANES.fetch_add(1, Ordering::SeqCst);
        }
    }
}

// SAFETY: everything is left to the system's allocator; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller answers for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller answers for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: as the caller answers for.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: as the caller answers for.
        unsafe { System.dealloc(place, layout) };
    }
}
