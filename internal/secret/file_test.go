package secret_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "share")
	for _, content := range []string{"first", "second, longer", "", "3"} {
		if err := secret.WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	alone(t, path)
}

// A write that fails names the file, changes nothing and leaves nothing behind.
func TestWriteFileFails(t *testing.T) {
	folder := t.TempDir()
	missing := filepath.Join(folder, "none", "share")
	if err := secret.WriteFile(missing, []byte("x")); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("into a missing folder: %v", err)
	}
	// A folder in its place fails at the rename, when all else is done.
	inTheWay := filepath.Join(folder, "share")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := secret.WriteFile(inTheWay, []byte("x")); err == nil {
		t.Error("replaced a folder")
	}
	alone(t, inTheWay)
	if os.Geteuid() == 0 {
		return // to whom a read-only folder is writable
	}
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(folder, 0o700)
	if err := secret.WriteFile(filepath.Join(folder, "other"), []byte("x")); err == nil {
		t.Error("wrote into a read-only folder")
	}
}

// Whoever reads meanwhile sees one whole content or the other.
func TestWriteFileIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "share")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)}
	if err := secret.WriteFile(path, contents[0]); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, content := range contents {
		group.Go(func() {
			for range 20 {
				if err := secret.WriteFile(path, content); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Go(func() {
		for range 200 {
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
				t.Errorf("%d bytes of neither, %v", len(got), err)
				return
			}
		}
	})
	group.Wait()
	alone(t, path)
}

func TestSyncFolder(t *testing.T) {
	if err := secret.SyncFolder(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := secret.SyncFolder(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("synced a missing folder")
	}
}

// alone checks that nothing lies beside path.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
