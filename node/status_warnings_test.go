package node

import (
	"strings"
	"testing"
)

// A device that only lacks its PIN is not to be replaced.
func TestTheWayOutFitsTheDevice(t *testing.T) {
	for state, way := range map[string]string{
		deviceLocked: "device enter pin", deviceGone: "device info --node c",
		deviceForeign: "device replace --node c", "blank": "device replace --node c",
	} {
		said := deviceWarning("c", state)
		if !strings.Contains(said, way) || strings.Contains(said, "replace") != strings.Contains(way, "replace") {
			t.Errorf("%s: %s", state, said)
		}
	}
}
