package nodetest_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// The searcher finds what is there, in whatever form, and nothing else.
func TestSearchFindsWhatIsPlanted(t *testing.T) {
	planted := nodetest.Planted{"a PIN": []byte("648219350715284")}
	planted.Plant("a key", secret.Random(32))
	planted.Plant("nothing", secret.New(0))
	if len(planted) != 2 {
		t.Errorf("%d are planted", len(planted))
	}
	for name, value := range planted {
		for form, content := range map[string]string{
			"raw": "before" + string(value) + "after", "quoted": fmt.Sprintf("msg=%q", value),
			"hex": "x" + hex.EncodeToString(value), "HEX": strings.ToUpper(hex.EncodeToString(value)),
			"base64 0":    base64.StdEncoding.EncodeToString(append([]byte("abc"), value...)),
			"base64 1":    base64.StdEncoding.EncodeToString(append([]byte("a"), value...)) + "==",
			"base64url 0": base64.URLEncoding.EncodeToString(value),
			"base64url 2": base64.URLEncoding.EncodeToString(append([]byte("ab"), append(value, 'x')...)),
			"printed":     fmt.Sprintf("{%v}", value), "an array": strings.ReplaceAll(fmt.Sprint(value), " ", ","),
		} {
			if found := planted.Search([]byte(content)); len(found) != 1 || !strings.HasPrefix(found[0], name+", ") {
				t.Errorf("%s, %s: found %v", name, form, found)
			}
			if cut := content[:len(content)/2]; len(planted.Search([]byte(cut))) != 0 {
				t.Errorf("%s, %s: found in half of it", name, form)
			}
		}
	}
	both := slices.Concat(planted["a key"], planted["a PIN"])
	if found := planted.Search(both); !slices.Equal(found, []string{"a PIN, raw", "a key, raw"}) {
		t.Errorf("found %v where both are", found)
	}
	if found := planted.Search([]byte(strings.Repeat("nothing here ", 100))); len(found) != 0 {
		t.Errorf("found %v where nothing is", found)
	}
}
