package dkek_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
)

// testdata/vectors.json was made by testdata/vectors.py, which knows
// docs/format.md and nothing of this code: three dealers and holders, threshold
// 2, epoch 7, attempt 2.
type vectors struct {
	PlanHash    string   `json:"plan_hash"`
	Sharing     string   `json:"sharing"`
	SharingHash string   `json:"sharing_hash"`
	Bundles     []string `json:"bundles"`
	Quorum      []string `json:"quorum"`
	Partials    []string `json:"partials"`
	DKEK        string   `json:"dkek"`
	KCV         string   `json:"kcv"`
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	check(t, err)
	return b
}

func TestVectorsOfAnotherProgram(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.json")
	check(t, err)
	var v vectors
	check(t, json.Unmarshal(data, &v))
	parsed, err := dkek.ParseSharing(unhex(t, v.Sharing))
	check(t, err)
	if got := parsed.Hash().String(); got != v.SharingHash {
		t.Errorf("sharing hash %s, want %s", got, v.SharingHash)
	}
	if got := parsed.Plan.Hash().String(); got != v.PlanHash {
		t.Errorf("plan hash %s, want %s", got, v.PlanHash)
	}
	// The bundles open only if all nine commitments are computed alike.
	s := sharing{parsed, make(map[dkek.NodeID]*dkek.Bundle)}
	key := newKey(t, dkek.X25519())
	for i, holder := range parsed.Plan.Holders {
		sealed := forge(t, release(s, holder.Node), parsed.Hash(), key.Public(), unhex(t, v.Bundles[i]))
		s.bundles[holder.Node], err = dkek.OpenRelease(key, sealed, transcript, parsed, holder.Node)
		check(t, err)
	}
	var quorum []dkek.NodeID
	for _, text := range v.Quorum {
		quorum = append(quorum, dkek.NodeID(unhex(t, text)))
	}
	for i, holder := range quorum {
		if got := hex.EncodeToString(reveal(s.partial(t, quorum, holder))); got != v.Partials[i] {
			t.Errorf("partial %d is %s, want %s", i, got, v.Partials[i])
		}
	}
	for _, quorum := range dkek.ProofQuorums(&parsed.Plan) {
		whole := s.combine(t, quorum)
		if hex.EncodeToString(reveal(whole)) != v.DKEK || dkek.KCVOf(whole).String() != v.KCV {
			t.Errorf("quorum %v: another DKEK or check value", quorum)
		}
	}
}

// The golden bytes of a sharing, by hand: one holder that is its only dealer.
func TestSharingGolden(t *testing.T) {
	var cluster dkek.ClusterID
	var node dkek.NodeID
	var print dkek.Fingerprint
	var commitment dkek.Hash
	copy(cluster[:], bytes.Repeat([]byte{0xc1}, 16))
	copy(node[:], bytes.Repeat([]byte{0x0d}, 16))
	copy(print[:], bytes.Repeat([]byte{0xf9}, 32))
	copy(commitment[:], bytes.Repeat([]byte{0xcc}, 32))
	one := []dkek.Holder{{Node: node, Fingerprint: print}}
	s := dkek.Sharing{
		Plan:     dkek.Plan{Cluster: cluster, Epoch: 300, Attempt: 1, Threshold: 1, Origin: dkek.Single, Holders: one, Dealers: one},
		Dealings: []dkek.Dealing{{Dealer: node, X: []byte{1}, Commitments: []dkek.Hash{commitment}}},
	}
	check(t, s.Validate())
	holder := "81 a2 01 50" + strings.Repeat("0d", 16) + "02 5820" + strings.Repeat("f9", 32)
	want := strings.Join([]string{
		"a2",                               // sharing: map of 2
		"01 a9",                            // 1, plan: map of 9
		"01 50" + strings.Repeat("c1", 16), //   1, cluster: 16 bytes
		"02 19012c",                        //   2, epoch: 300
		"03 01",                            //   3, attempt: 1
		"04 01",                            //   4, threshold: 1
		"05 66" + hex.EncodeToString([]byte("single")), // 5, origin: text
		"06" + holder,                           //   6, holders: list of 1: {1: node, 2: fingerprint}
		"07" + holder,                           //   7, dealers
		"08 5820" + strings.Repeat("00", 32),    //   8, previous: none
		"09 48" + strings.Repeat("00", 8),       //   9, KCV: not known
		"02 81 a3",                              // 2, dealings: list of 1: map of 3
		"01 50" + strings.Repeat("0d", 16),      //   1, dealer
		"02 41 01",                              //   2, x: one byte for each holder
		"03 81 5820" + strings.Repeat("cc", 32), // 3, commitments: list of 1
	}, "")
	want = strings.ReplaceAll(want, " ", "")
	got, err := s.Encode()
	check(t, err)
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
}

// python runs a script of testdata, or skips where there is no Python.
func python(t *testing.T, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 is not installed: make deps")
	}
	out, err := exec.Command("python3", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("python3 %v: %v\n%s", args, err, out)
	}
	return out
}

func TestVectorsAreWhatTheScriptMakes(t *testing.T) {
	want, err := os.ReadFile("testdata/vectors.json")
	check(t, err)
	if got := python(t, "testdata/vectors.py"); !bytes.Equal(got, want) {
		t.Fatal("testdata/vectors.json is not the output of testdata/vectors.py")
	}
}

// A share file is read, unsealed and checked by a script that knows only its
// documentation.
func TestShareFileIsReadByAnotherProgram(t *testing.T) {
	s := deal(t, firstPlan(3, 2), nil)
	content, err := s.bundles[id(2)].SealAtRest(newBox(t, 0x5e), s.Sharing)
	check(t, err)
	path := filepath.Join(t.TempDir(), "share")
	check(t, os.WriteFile(path, content, 0o600))
	var got struct {
		Holder, Cluster, Origin   string
		Epoch, Attempt, Threshold int
		Holders                   []string
		SharingHash               string `json:"sharing_hash"`
		SubShares                 string `json:"sub_shares"`
	}
	check(t, json.Unmarshal(python(t, "testdata/sharefile.py", path, strings.Repeat("5e", 32)), &got))
	if got.Holder != id(2).String() || got.Cluster != s.Plan.Cluster.String() || got.Epoch != 1 || got.Attempt != 1 ||
		got.Threshold != 2 || got.Origin != "dealt" || len(got.Holders) != 3 || got.SharingHash != s.Hash().String() {
		t.Errorf("the script read %+v", got)
	}
	if got.SubShares != hex.EncodeToString(s.open(t, id(2))) {
		t.Error("the script unsealed another share")
	}
}
