//go:build !linux

package secret

func allocate(n int) []byte { return make([]byte, n) }

func (m *mapping) free() {
	Wipe(m.data)
	m.data = nil
}

// Unlocked reports whether some secret of this process could not be locked in
// memory. Locking is implemented on Linux only.
func Unlocked() bool { return true }

// Harden does nothing on this system.
func Harden() error { return nil }
