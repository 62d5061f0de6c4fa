package nodetest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keycustodian/keycustodian/hsm"
)

// Planted are secrets by name, to be looked for where none may be. A secret has at
// least 12 bytes: shorter ones are found by chance.
type Planted map[string][]byte

// Plant adds a secret; none of no length.
func (p Planted) Plant(name string, value *hsm.Secret) {
	value.With(func(b []byte) {
		if len(b) > 0 {
			p[name] = bytes.Clone(b)
		}
	})
}

// Search names the secrets that content holds, and how: raw or as Go quotes it, in
// hexadecimal of either case, in base64 of either alphabet at any of its three
// alignments, or as Go prints bytes.
func (p Planted) Search(content []byte) (found []string) {
	lower := bytes.ToLower(content)
	for _, name := range slices.Sorted(maps.Keys(p)) {
		value := p[name]
		decimal := strings.Trim(fmt.Sprint(value), "[]")
		switch {
		case bytes.Contains(content, value):
			found = append(found, name+", raw")
		case bytes.Contains(content, []byte(strings.Trim(strconv.Quote(string(value)), `"`))):
			found = append(found, name+", quoted")
		case bytes.Contains(lower, []byte(hex.EncodeToString(value))):
			found = append(found, name+", hex")
		case containsBase64(content, value):
			found = append(found, name+", base64")
		case bytes.Contains(content, []byte(decimal)) || bytes.Contains(content, []byte(strings.ReplaceAll(decimal, " ", ","))):
			found = append(found, name+", decimal")
		}
	}
	return found
}

func containsBase64(content, value []byte) bool {
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := alphabet.EncodeToString(append(make([]byte, shift), value...))
			// Characters at both ends depend on the neighbours.
			if bytes.Contains(content, []byte(text[4:len(text)-4])) {
				return true
			}
		}
	}
	return false
}
