//go:build faults

package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// A process of this build obeys KEYCUSTODIAN_TORN, the path of a file with one
// order, which is removed once it is carried out:
//
//	HOW WHAT SEED
//
// WHAT is the name of a file, or of the folder that it lies in: "mark", "shares",
// "device"; of Raft "log", "term", "vote", "snapshots". The next write of it ends badly:
//
//	cut   a part is written, and the process dies
//	fail  a part is written or nothing can be synced, and that is an error
//	lost  the process dies as in a power cut, just before the write is durable:
//	      of what was not synced a part is gone
//
// SEED decides how large the part is.
const tornOrder = "KEYCUSTODIAN_TORN"

// Torn is an order that this process has taken.
type Torn struct {
	How    string
	Random *rand.Rand
}

// ErrTorn is what an order to fail does.
var ErrTorn = fmt.Errorf("torn by order: %w", syscall.EIO)

// TearNow takes the order to tear what, if there is one, and else returns nil.
func TearNow(what ...string) *Torn {
	path := os.Getenv(tornOrder)
	if path == "" {
		return nil
	}
	order, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var how, which string
	var seed uint64
	if _, err := fmt.Sscan(string(order), &how, &which, &seed); err != nil {
		return nil
	}
	for _, name := range what {
		if name == which && os.Remove(path) == nil {
			return &Torn{how, rand.New(rand.NewPCG(seed, 0))}
		}
	}
	return nil
}

// Die ends the process as a power cut does.
func Die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // nothing happens after the instant
}

// unsynced are the files that a rename has yet to put in their place.
var unsynced struct {
	sync.Mutex
	files map[string]*tornFile
}

// tornFile is a file that knows what of it is durable.
type tornFile struct {
	*os.File
	target string
	order  *Torn // to lose what is not durable
	begun  int64 // bytes that were there before
	synced bool  // all that was written is durable
}

func openFile(path string, flags int, mode fs.FileMode) (*tornFile, error) {
	file, err := os.OpenFile(path, flags, mode)
	if err != nil {
		return nil, err
	}
	f := &tornFile{File: file, target: targetOf(path)}
	if info, err := file.Stat(); err == nil {
		f.begun = info.Size()
	}
	unsynced.Lock()
	defer unsynced.Unlock()
	if unsynced.files == nil {
		unsynced.files = map[string]*tornFile{}
	}
	unsynced.files[path] = f
	return f, nil
}

// targetOf is the name of the file that one of the name ".NAME.RANDOM.new" will
// replace.
func targetOf(path string) string {
	folder, name := filepath.Split(path)
	if inner, ok := strings.CutSuffix(name, ".new"); ok && strings.HasPrefix(inner, ".") {
		if at := strings.LastIndexByte(inner, '.'); at > 0 {
			name = inner[1:at]
		}
	}
	return filepath.Join(folder, name)
}

func (f *tornFile) Write(content []byte) (int, error) {
	f.order = TearNow(filepath.Base(f.target), filepath.Base(filepath.Dir(f.target)))
	if f.order == nil || f.order.How == "lost" || f.order.How == "fail" && f.order.Random.IntN(2) == 0 {
		return f.File.Write(content)
	}
	n, err := f.File.Write(content[:f.order.Random.IntN(len(content)+1)])
	if f.order.How == "cut" {
		Die()
	}
	f.order = nil
	return n, errors.Join(err, ErrTorn)
}

func (f *tornFile) Sync() error {
	if f.order != nil && f.order.How == "fail" {
		f.order = nil
		return ErrTorn
	}
	if f.order != nil && f.File.Name() == f.target { // no rename follows
		f.lose()
		Die()
	}
	err := f.File.Sync()
	f.synced = err == nil
	return err
}

// lose drops a part of what is not durable.
func (f *tornFile) lose() {
	info, err := os.Stat(f.File.Name())
	if err != nil || f.synced {
		return
	}
	os.Truncate(f.File.Name(), f.begun+f.order.Random.Int64N(info.Size()-f.begun+1))
}

// Close keeps in mind what a rename needs to know.
func (f *tornFile) Close() error {
	if f.File.Name() == f.target || f.order == nil {
		unsynced.Lock()
		delete(unsynced.files, f.File.Name())
		unsynced.Unlock()
	}
	return f.File.Close()
}

// renameFile dies by order when the new name may or may not be durable.
func renameFile(from, to string) error {
	unsynced.Lock()
	f := unsynced.files[from]
	delete(unsynced.files, from)
	unsynced.Unlock()
	if f == nil || f.order == nil {
		return os.Rename(from, to)
	}
	f.lose()
	if f.order.Random.IntN(2) == 0 {
		os.Rename(from, to)
	}
	Die()
	return nil
}
