package soft_test

import (
	"path/filepath"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/hsm/soft"
)

// quick leaves out RSA, which the other of the two suites covers.
func quick() (types []hsm.KeyType) {
	for _, t := range hsm.KeyTypes() {
		if t.Family() != hsm.FamilyRSA {
			types = append(types, t)
		}
	}
	return types
}

func TestConformanceInMemory(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, hsmtest.Suite{
		SpendSOTries: true,
		Types:        quick(),
		Open: func(t *testing.T) hsmtest.Fixture {
			device := soft.NewMemory(soft.Options{Slots: 12})
			t.Cleanup(func() { device.Close() })
			return hsmtest.Fixture{Device: device}
		},
	})
}

func TestConformanceInFile(t *testing.T) {
	t.Parallel()
	suite := hsmtest.Suite{SpendSOTries: true, Open: func(t *testing.T) hsmtest.Fixture {
		options := soft.Options{Path: filepath.Join(t.TempDir(), "device"), Seal: newSeal(), Bytes: 76 << 10}
		device := mustOpen(t, options)
		return hsmtest.Fixture{Device: device, Reopen: func(t *testing.T) hsm.Device {
			if err := device.Close(); err != nil {
				t.Fatal(err)
			}
			device = mustOpen(t, options)
			return device
		}}
	}}
	if testing.Short() {
		suite.Types = quick()
	}
	hsmtest.Run(t, suite)
}

func newSeal() *hsm.Secret {
	seal := make([]byte, 32)
	for i := range seal {
		seal[i] = byte(i)
	}
	return hsm.NewSecret(seal)
}

func mustOpen(t testing.TB, options soft.Options) *soft.Device {
	t.Helper()
	device, err := soft.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return device
}
