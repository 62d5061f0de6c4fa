package soft_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

const (
	childPath = "KEYCUSTODIAN_SOFT_TEST_DEVICE"
	childBase = "KEYCUSTODIAN_SOFT_TEST_SLOT"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		base, err := strconv.ParseUint(os.Getenv(childBase), 10, 32)
		if err == nil {
			err = writeKeys(path, hsm.Slot(base))
		}
		if err != nil {
			fmt.Println("failed", err)
		}
		return
	}
	os.Exit(m.Run())
}

func pin() *hsm.Secret   { return hsm.NewSecret([]byte("648219")) }
func soPIN() *hsm.Secret { return hsm.NewSecret([]byte("3537363231383830")) }

// prepare makes a blank device ready and logged in.
func prepare(device hsm.Device) error {
	ctx := context.Background()
	if err := device.Initialise(ctx, hsm.InitOptions{PIN: pin(), SOPIN: soPIN(), Shares: 1}); err != nil {
		return err
	}
	if err := device.Login(ctx, pin()); err != nil {
		return err
	}
	_, err := device.ImportShare(ctx, hsm.NewSecret([]byte("a DKEK for tests, thirty-two byt")))
	return err
}

// writeKeys makes and deletes keys until it is killed, and prints what is done
// once it is durable: "made SLOT" and "gone SLOT". It begins with the slot base.
func writeKeys(path string, base hsm.Slot) error {
	ctx := context.Background()
	device, err := soft.Open(soft.Options{Path: path, Seal: newSeal()})
	if err != nil {
		return err
	}
	if err := device.Login(ctx, pin()); err != nil {
		return err
	}
	var group sync.WaitGroup
	for w := range hsm.Slot(8) {
		group.Go(func() {
			for slot := base + w; ; slot += 8 {
				if _, err := device.Generate(ctx, slot, hsm.ECDSAP256, hsm.Attributes{}); err != nil {
					return
				}
				if err := device.Sync(ctx); err != nil {
					return
				}
				fmt.Printf("made %d\n", slot)
				if slot%4 != 0 {
					continue
				}
				fmt.Printf("going %d\n", slot)
				if device.Delete(ctx, slot) != nil || device.Sync(ctx) != nil {
					return
				}
				fmt.Printf("gone %d\n", slot)
			}
		})
	}
	group.Wait()
	return fmt.Errorf("stopped early")
}

// A process that is killed at any instant has lost nothing that it acknowledged.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "device")
	options := soft.Options{Path: path, Seal: newSeal()}
	device, err := soft.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := prepare(device); err != nil {
		t.Fatal(err)
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	state := map[hsm.Slot]string{}
	for round := range 4 {
		// No slot is used in two rounds: what is said of it stays the last word.
		base := 1 + round*soft.DefaultSlots/4
		if n := killAfter(t, path, base, 100+random.IntN(400), state); n == 0 {
			t.Fatal("the process acknowledged nothing")
		}
		device, err := soft.Open(options)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		if err := device.Login(t.Context(), pin()); err != nil {
			t.Fatal(err)
		}
		objects, err := device.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		there := map[hsm.Slot]bool{}
		for _, object := range objects {
			there[object.Slot] = true
			if _, err := device.Wrap(t.Context(), object.Slot); err != nil {
				t.Errorf("slot %d: %v", object.Slot, err)
			}
		}
		for slot, last := range state {
			if last == "made" && !there[slot] {
				t.Errorf("the acknowledged key in slot %d is missing", slot)
			}
			if last == "gone" && there[slot] {
				t.Errorf("the deleted key in slot %d is back", slot)
			}
		}
		if err := device.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter runs writeKeys in a process of its own and kills it after so many
// lines; what it said is noted in state.
func killAfter(t *testing.T, path string, base, lines int, state map[hsm.Slot]string) (n int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childPath+"="+path, fmt.Sprint(childBase, "=", base))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.AfterFunc(3*time.Second, func() { child.Process.Kill() })
	defer deadline.Stop()
	in := bufio.NewScanner(out)
	for in.Scan() { // to the end of what was printed before the kill took effect
		word, number, _ := strings.Cut(in.Text(), " ")
		var slot hsm.Slot
		if _, err := fmt.Sscan(number, &slot); err != nil {
			t.Fatalf("the process said %q", in.Text())
		}
		state[slot] = word
		if n++; n == lines {
			child.Process.Kill()
		}
	}
	child.Wait()
	return n
}
