package node

import (
	"os"
	"path/filepath"
	"testing"
)

// What is appended is synced: where that is refused, as for a device that keeps
// nothing, so is the append.
func TestAppendIsSynced(t *testing.T) {
	d := disk{dir: t.TempDir()}
	if err := d.append("records", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(d.dir, "nowhere")); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if null.Sync() == nil {
		t.Fatal("this system syncs /dev/null: find another file that cannot be")
	}
	if err := d.append("nowhere", []byte("one")); err == nil {
		t.Error("appended to what cannot be synced")
	}
}

// A write that was killed leaves its copy beside the file, a share's too: the next
// start removes it, and nothing else.
func TestUnfinishedCopiesAreCleared(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "shares"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".pins.ABC.new", "shares/.1-1.ABC.new", "pins", "shares/1-1", "shares/.other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, unlock, err := openDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for name, stays := range map[string]bool{".pins.ABC.new": false, "shares/.1-1.ABC.new": false, "pins": true, "shares/1-1": true, "shares/.other": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}
