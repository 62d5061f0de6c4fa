//go:build faults

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

const (
	diskSize = 512 << 20 // of a node's disk, of which it uses little
	// diskLeft is what a full disk has room for.
	diskLeft = 32 << 10
)

// ownMounts names the environment variable of a test whose mounts are its own.
const ownMounts = "KEYCUSTODIAN_OWN_MOUNTS"

// inOwnMounts runs the test once more, in a process that has mounts of its own: they
// end with it however it ends, and who is not root may make them too, where the system
// lets users have namespaces. It tells whether this is that process.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(ownMounts) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // a child ends with the thread that started it
	defer runtime.UnlockOSThread()
	attributes := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attributes.Cloneflags = syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd := &exec.Cmd{
		Path: self, Args: []string{self, "-test.v", "-test.run=^" + t.Name() + "$"}, Env: append(os.Environ(), ownMounts+"=1"),
		Stdout: lineLog{t}, SysProcAttr: attributes,
	}
	cmd.Stderr = cmd.Stdout
	err = cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a disk that can be full is a tmpfs mount, and a process may not have mounts of its own here: %v. Run the test as root (CAP_SYS_ADMIN), or where users may have namespaces", err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// lineLog passes on what another test logs.
type lineLog struct{ t *testing.T }

func (l lineLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimRight(p, "\n"))
	return len(p), nil
}

// mountDisk makes a disk of a folder, or gives one that was filled its room back.
func mountDisk(t testing.TB, dir string) {
	t.Helper()
	mounted := isMounted(t, dir)
	if err := setDisk(dir, diskSize, mounted); err != nil {
		t.Fatalf("mount a tmpfs at %s: %v", dir, err)
	}
	if !mounted {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
}

// fillDisk takes the room away that a disk has left.
func fillDisk(t testing.TB, dir string) {
	t.Helper()
	var err error
	for range 100 { // a size below what is in use is refused, and it is in use
		var s syscall.Statfs_t
		if err = syscall.Statfs(dir, &s); err != nil {
			break
		}
		if err = setDisk(dir, (s.Blocks-s.Bfree)*uint64(s.Bsize)+diskLeft, true); !errors.Is(err, syscall.EINVAL) {
			break
		}
	}
	if err != nil {
		t.Fatalf("fill %s: %v", dir, err)
	}
}

func setDisk(dir string, size uint64, mounted bool) error {
	var flags uintptr
	if mounted {
		flags = syscall.MS_REMOUNT
	}
	return syscall.Mount("keycustodian", dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=0700", size))
}

// isMounted tells whether a folder is a disk of its own.
func isMounted(t testing.TB, dir string) bool {
	t.Helper()
	var s, above syscall.Stat_t
	if err := errors.Join(syscall.Stat(dir, &s), syscall.Stat(dir+"/..", &above)); err != nil {
		t.Fatal(err)
	}
	return s.Dev != above.Dev
}
