package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// lyingDevice says OK and does something else, where a test tells it to.
type lyingDevice struct {
	hsm.Device
	lies atomic.Pointer[lies]
}

// lies are what a lyingDevice does otherwise; where one is nil, it is honest.
type lies struct {
	wraps   func(blob []byte) []byte                      // what Wrap answers
	unwraps func(blob []byte) []byte                      // what Unwrap brings in
	shows   func(blob []byte, object *hsm.Object)         // what Unwrap says of it
	signs   func(input []byte) ([]byte, error)            // what is really signed
	agrees  func(secret *hsm.Secret) (*hsm.Secret, error) // what ECDH answers
}

func newLyingDevice(honest hsm.Device) *lyingDevice {
	d := &lyingDevice{Device: honest}
	d.tell(lies{})
	return d
}

// tell has the device lie so from its next call on.
func (d *lyingDevice) tell(l lies) { d.lies.Store(&l) }

func (d *lyingDevice) Wrap(ctx context.Context, slot hsm.Slot) ([]byte, error) {
	blob, err := d.Device.Wrap(ctx, slot)
	if wraps := d.lies.Load().wraps; err == nil && wraps != nil {
		blob = wraps(blob)
	}
	return blob, err
}

func (d *lyingDevice) Unwrap(ctx context.Context, slot hsm.Slot, blob []byte, attributes hsm.Attributes) (hsm.Object, error) {
	lies, asked := d.lies.Load(), blob
	if lies.unwraps != nil {
		blob = lies.unwraps(blob)
	}
	object, err := d.Device.Unwrap(ctx, slot, blob, attributes)
	if err == nil && lies.shows != nil {
		lies.shows(asked, &object)
	}
	return object, err
}

func (d *lyingDevice) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	if signs := d.lies.Load().signs; signs != nil {
		var err error
		if input, err = signs(input); err != nil {
			return nil, err
		}
	}
	return d.Device.Sign(ctx, slot, input, options)
}

func (d *lyingDevice) ECDH(ctx context.Context, slot hsm.Slot, point []byte) (*hsm.Secret, error) {
	secret, err := d.Device.ECDH(ctx, slot, point)
	if agrees := d.lies.Load().agrees; err == nil && agrees != nil {
		return agrees(secret)
	}
	return secret, err
}

// lie puts such a device in the place of a member's own.
func (l *keyLab) lie(m *nodetest.Member) *lyingDevice {
	l.t.Helper()
	m.Close()
	device := newLyingDevice(m.Device)
	m.Config.Device.Device = device
	m.Start()
	l.Leader()
	l.ready(m)
	return device
}

// startLying starts one member with such a device, of so many slots.
func startLying(t *testing.T, slots int) (*keyLab, *nodetest.Member, *lyingDevice) {
	t.Helper()
	l := startKeys(t, 1, nodetest.Options{Slots: slots})
	m := l.Members[0]
	return l, m, l.lie(m)
}

// A key whose wrapped form is another key's is not acknowledged: it was unwrapped
// again and did not answer as itself.
func TestABackupThatIsNotTheKeyMakesNone(t *testing.T) {
	for _, keyType := range []hsm.KeyType{hsm.ECDSAP256, hsm.AES256} {
		t.Run(string(keyType), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, m, device := startLying(t, 0)
				var first []byte
				device.tell(lies{wraps: func(blob []byte) []byte {
					if first == nil {
						first = blob
					}
					return first
				}})
				l.create(m, "first", keyType)
				if _, err := m.CreateKey(t.Context(), node.KeySpec{Name: "second", Type: keyType}); err == nil {
					t.Error("a key is acknowledged whose blob is another's")
				}
				if _, ok := m.View().Key("second"); ok {
					t.Error("it is in the state")
				}
				device.tell(lies{})
				l.create(m, "second", keyType)
			})
		})
	}
}

// A key that comes back from its blob is used only once it has answered as itself,
// whatever the device says.
func TestALoadedKeyIsProven(t *testing.T) {
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		keyType hsm.KeyType
		use     node.KeyUse
		lies    func(other []byte, public crypto.PublicKey) lies
		says    string
	}{
		"a key that signs": {hsm.ECDSAP256, node.KeyUse{Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256},
			func(other []byte, public crypto.PublicKey) lies {
				return lies{
					unwraps: func([]byte) []byte { return other },
					shows:   func(_ []byte, o *hsm.Object) { o.Public = public },
				}
			}, "not this key"},
		"a key that authenticates": {hsm.AES256, node.KeyUse{Verb: fsm.MAC, Input: digest[:]},
			func(other []byte, _ crypto.PublicKey) lies {
				return lies{unwraps: func([]byte) []byte { return other }}
			}, "not this key"},
		"a key that agrees": {hsm.ECDSAP256, node.KeyUse{Verb: fsm.Derive, Input: peer.PublicKey().Bytes()},
			func([]byte, crypto.PublicKey) lies {
				return lies{agrees: func(*hsm.Secret) (*hsm.Secret, error) { return hsm.NewSecret(make([]byte, 32)), nil }}
			}, "not this key"},
		"another public half": {hsm.ECDSAP256, node.KeyUse{Verb: fsm.Sign, Input: digest[:], Hash: crypto.SHA256},
			func(other []byte, _ crypto.PublicKey) lies {
				return lies{unwraps: func([]byte) []byte { return other }}
			}, "another public key"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, m, device := startLying(t, 2)
				key := l.create(m, "a", test.keyType)
				l.create(m, "b", test.keyType) // its proof takes the slot of the first
				row, _ := m.View().Key("b")
				other, _ := m.View().Version(row.ID, 1)
				device.tell(test.lies(other.Material.Blob, key.Public()))
				test.use.Key = "a"
				if used, err := m.UseKey(t.Context(), m.Self(), test.use); err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("it answered %x, %v, want %q", used.Output, err, test.says)
				}
				device.tell(lies{})
				time.Sleep(2 * time.Minute)
				if _, err := m.UseKey(t.Context(), m.Self(), test.use); err != nil {
					t.Errorf("by an honest device: %v", err)
				}
			})
		})
	}
}

// A key of which the device does not say that its own copy is durable is not
// acknowledged, although it is committed.
func TestACreationWaitsForItsDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		m.Device.Plan(hsmtest.Plan{Op: hsmtest.OpSync, Times: -1})
		spec := node.KeySpec{Name: "k", Type: hsm.Ed25519, RequestID: request(7)}
		if _, err := m.CreateKey(t.Context(), spec); !errors.Is(err, node.ErrOutcomeUnknown) {
			t.Errorf("created: %v", err)
		}
		m.Device.Heal()
		if _, err := m.CreateKey(t.Context(), spec); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

// A key that is destroyed while it signs is deleted when it has.
func TestDestroyWaitsForAUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 1, nodetest.Options{})
		m := l.Members[0]
		key := l.create(m, "k", hsm.Ed25519)
		signing, goOn := make(chan struct{}), make(chan struct{})
		m.Device.Hook(func(call hsmtest.Call) {
			if call.Op == hsmtest.OpSign {
				close(signing)
				<-goOn
			}
		}, nil)
		signed := make(chan error)
		go func() {
			_, err := key.SignContext(t.Context(), digest[:], options(key))
			signed <- err
		}()
		<-signing
		if err := m.DeleteKey(t.Context(), "k", time.Millisecond); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := len(l.objects(m)); n != 1 {
			t.Errorf("%d objects: it was deleted in the middle of a signature", n)
		}
		close(goOn)
		if err := <-signed; err != nil {
			t.Errorf("the signature that was under way: %v", err)
		}
		l.Eventually("it is deleted", func() bool { return len(l.objects(m)) == 0 })
	})
}

// What another node signed is checked before it is given out, and a use that fails
// there goes no further: each node is asked once.
func TestAForwardedUseIsCheckedAndGoesNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 3, nodetest.Options{Policy: fsm.Policy{Copies: 3}})
		var devices []*lyingDevice
		for _, m := range l.Members {
			devices = append(devices, l.lie(m))
		}
		m := l.Members[0]
		key := l.create(m, "k", hsm.ECDSAP256)
		gone := func(input []byte) ([]byte, error) {
			return nil, &hsm.Error{Op: "sign", Device: "test", Err: hsm.ErrGone}
		}
		devices[0].tell(lies{signs: gone})
		for _, d := range devices[1:] {
			d.tell(lies{signs: func(input []byte) ([]byte, error) { return make([]byte, len(input)), nil }})
		}
		if signature, err := key.SignContext(t.Context(), digest[:], crypto.SHA256); err == nil {
			t.Errorf("a wrong signature of another node was given out: %x", signature)
		}
		var asked [3]atomic.Int32
		for i, d := range devices {
			d.tell(lies{signs: func(input []byte) ([]byte, error) {
				if bytes.Equal(input, digest[:]) {
					asked[i].Add(1)
				}
				return gone(input)
			}})
		}
		if _, err := key.SignContext(t.Context(), digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrGone) {
			t.Errorf("with no device: %v", err)
		}
		for i := range asked {
			if n := asked[i].Load(); n != 1 {
				t.Errorf("%s was asked %d times", l.Members[i].Name, n)
			}
		}
	})
}
