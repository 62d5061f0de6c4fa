//go:build linux

package secret

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These look at the memory itself, which no caller can.

// What free leaves behind is zero. The heap's fallback is used, since pages that
// are given back cannot be looked at.
func TestFreeOverwrites(t *testing.T) {
	data := []byte("648219")
	m := &mapping{data: data}
	m.free()
	if !bytes.Equal(data, make([]byte, 6)) || m.data != nil {
		t.Errorf("left %q", data)
	}
	m.free()
}

// A secret's pages are locked, where allowed, and left out of core dumps; after
// Wipe they are not the process's any more.
func TestMapping(t *testing.T) {
	b := New(32)
	address := uintptr(unsafe.Pointer(&b.memory.data[0]))
	flags := flagsAt(t, address)
	if !strings.Contains(flags, " dd") {
		t.Errorf("not left out of core dumps: %s", flags)
	}
	if !Unlocked() && !strings.Contains(flags, " lo") {
		t.Errorf("not locked: %s", flags)
	}
	if address%uintptr(os.Getpagesize()) != 0 {
		t.Error("not a page of its own")
	}
	data := b.memory.data
	b.Wipe()
	if err := unix.Madvise(data, unix.MADV_NORMAL); err == nil {
		t.Error("still mapped after Wipe")
	}
}

// flagsAt returns the flags in /proc/self/smaps of the mapping around address.
func flagsAt(t *testing.T, address uintptr) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if inside && strings.HasPrefix(line, "VmFlags:") {
			return strings.TrimSpace(line)
		}
	}
	t.Fatal("no such mapping")
	return ""
}
