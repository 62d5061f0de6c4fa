package secret

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var unlocked atomic.Bool

// allocate maps at least n zero bytes apart from the heap, locked and left out
// of core dumps. Where locking is not permitted the memory is used unlocked and
// Unlocked says so.
func allocate(n int) []byte {
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	if size == 0 {
		return nil
	}
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil { // out of address space: the heap is all there is
		unlocked.Store(true)
		return make([]byte, size)
	}
	if unix.Mlock(data) != nil {
		unlocked.Store(true)
	}
	unix.Madvise(data, unix.MADV_DONTDUMP)
	return data
}

func (m *mapping) free() {
	if m.data == nil {
		return
	}
	Wipe(m.data)
	unix.Munmap(m.data) // fails harmlessly for the heap fallback
	m.data = nil
}

// Unlocked reports whether some secret of this process could not be locked in
// memory (no CAP_IPC_LOCK and RLIMIT_MEMLOCK used up) and may reach swap.
func Unlocked() bool { return unlocked.Load() }

// Harden keeps this process's memory from core dumps and from other processes
// of the same user: RLIMIT_CORE 0 and PR_SET_DUMPABLE 0; and lets it lock as much
// memory as it may. Call it once, first.
func Harden() error {
	var lockable unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lockable); err == nil && lockable.Cur < lockable.Max {
		lockable.Cur = lockable.Max
		unix.Setrlimit(unix.RLIMIT_MEMLOCK, &lockable) // failing, Unlocked tells in time
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
