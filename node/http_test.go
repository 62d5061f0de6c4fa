package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// browser asks one cluster's members over HTTP, as the owner of one key.
type browser struct {
	t      *testing.T
	client *http.Client
}

// browse makes a browser. A nil key shows none.
func browse(t *testing.T, c *nodetest.Cluster, key crypto.Signer) *browser {
	settings := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	if key != nil {
		now := time.Now()
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		settings.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	from := c.Network.Host("10.0.9.9")
	transport := &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		raw, err := from.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		settings := settings.Clone()
		settings.NextProtos = []string{"http/1.1"}
		conn := tls.Client(raw, settings)
		return conn, conn.HandshakeContext(ctx)
	}}
	return &browser{t, &http.Client{Transport: transport}}
}

// reply is an answer with its body read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// failure is the error in the body.
func (r reply) failure() (e api.Error) { json.Unmarshal(r.body, &e); return }

func (b *browser) send(m *nodetest.Member, method, path, request string, body []byte, more ...string) reply {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, "https://"+m.Addr()+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", api.TypeJSON)
	if request != "" {
		r.Header.Set(api.HeaderRequest, request)
	}
	for i := 0; i+1 < len(more); i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	answer, err := b.client.Do(r)
	if errors.Is(err, io.EOF) {
		return reply{} // cut
	}
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{answer.StatusCode, answer.Header, content}
}

func (b *browser) get(m *nodetest.Member, path string) reply { return b.send(m, "GET", path, "", nil) }

func (b *browser) post(m *nodetest.Member, path string, body any) reply {
	return b.postAs(m, path, newRequest(), body)
}

func (b *browser) postAs(m *nodetest.Member, path, request string, body any) reply {
	content, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.send(m, "POST", path, request, content)
}

func newRequest() string {
	id := make([]byte, 16)
	rand.Read(id)
	return hex.EncodeToString(id)
}

// read decodes an answer that must be good.
func read[A any](t *testing.T, r reply) (answer A) {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("%d: %s", r.status, r.body)
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func wantCode(t *testing.T, r reply, code api.Code) {
	t.Helper()
	said := r.failure()
	if said.Code != code || r.status != code.Status() {
		t.Errorf("answered %d %s, want %s: %s", r.status, said.Code, code, said.Message)
	}
	if said.Node == "" {
		t.Errorf("%s does not say which node: %s", code, r.body)
	}
}

// Nobody gets in by another door than its own: every route of the table, asked
// by everybody whom it does not name, is refused before anything is read.
func TestEveryRouteKnowsItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m := c.Members[0]
		operator := browse(t, c, c.Operators[0].Key)
		user, auditor := addClient(t, c, operator, "user"), addClient(t, c, operator, "auditor")
		_, unknown, _ := ed25519.GenerateKey(rand.Reader)
		callers := map[api.Who]*browser{
			api.Operator: operator, api.User: user, api.Auditor: auditor,
			"no key": browse(t, c, nil), "unknown key": browse(t, c, unknown),
		}
		for _, route := range api.Routes() {
			for who, b := range callers {
				if route.May(who) {
					continue
				}
				want := api.CodeForbidden
				if who == "no key" {
					want = api.CodeUnauthenticated
				}
				wantCode(t, b.send(m, route.Method, route.Path, newRequest(), nil), want)
			}
		}
		wantCode(t, operator.get(m, "/v1/nothing"), api.CodeNotFound)
		wantCode(t, operator.send(m, "DELETE", "/v1/keys", "", nil), api.CodeBadRequest)
	})
}

// addClient adds a client with all rights of its role and returns its browser.
func addClient(t *testing.T, c *nodetest.Cluster, operator *browser, role api.Who) *browser {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	q := api.ClientAddRequest{Name: "a-" + string(role), Public: public, Role: role}
	if role == api.User {
		q.Prefixes, q.Verbs = []string{"db/"}, api.Verbs()
	}
	added := read[api.Client](t, operator.post(c.Leader(), "/v1/clients", q))
	if added.Role != role || added.Fingerprint != fsm.FingerprintOf(public).String() || added.AddedAt.IsZero() {
		t.Errorf("added %+v", added)
	}
	return browse(t, c, key)
}

// A client that was removed gets nothing more, on the connection that it has
// and at every node.
func TestRemovedClientIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		operator := browse(t, c, c.Operators[0].Key)
		auditor := addClient(t, c, operator, api.Auditor)
		for _, m := range c.Members {
			c.Eventually("the auditor is known", func() bool { return auditor.get(m, "/v1/members").status == http.StatusOK })
		}
		read[api.Ack](t, operator.post(c.Follower(), "/v1/clients/remove", api.ClientRemoveRequest{Client: "a-auditor"}))
		for _, m := range c.Members {
			c.Eventually("the auditor is out", func() bool { return auditor.get(m, "/v1/members").failure().Code == api.CodeForbidden })
		}
	})
}

// What cannot be understood changes nothing and says what is wrong.
func TestBadRequestsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 1, nodetest.Options{Blank: true})
		m, b := c.Members[0], browse(t, c, c.Operators[0].Key)
		token := func(content string, more ...string) reply {
			return b.send(m, "POST", "/v1/tokens", newRequest(), []byte(content), more...)
		}
		good := fmt.Sprintf(`{"fingerprint":%q}`, strings.Repeat("ab", 32))
		for what, r := range map[string]reply{
			"unknown field":       token(`{"fingerprint":"ab","surprise":1}`),
			"a field twice":       token(good[:len(good)-1] + "," + good[1:]),
			"in another case":     token(good[:len(good)-1] + `,"FingerPrint":"ab"}`),
			"a label twice":       b.send(m, "POST", "/v1/keys", newRequest(), []byte(`{"name":"k","type":"ed25519","labels":{"a":"1","a":"2"}}`)),
			"two bodies":          token(good + good),
			"no JSON":             token(`fingerprint=ab`),
			"empty":               token(``),
			"a form":              token(good, "Content-Type", "application/x-www-form-urlencoded"),
			"no request ID":       b.send(m, "POST", "/v1/tokens", "", []byte(good)),
			"a short request ID":  b.send(m, "POST", "/v1/tokens", "abcd", []byte(good)),
			"an upper-case ID":    b.send(m, "POST", "/v1/tokens", strings.Repeat("AB", 16), []byte(good)),
			"an unknown query":    b.get(m, "/v1/keys?nme=a"),
			"a query where none":  b.get(m, "/v1/members?a=b"),
			"limit too large":     b.get(m, "/v1/keys?limit=1001"),
			"wait too long":       b.get(m, "/v1/ceremony?id=ab&wait=31"),
			"a bad key name":      b.get(m, "/v1/key?key=Tables"),
			"a version of zero":   b.get(m, "/v1/key?key=tables@0"),
			"expiry too short":    token(fmt.Sprintf(`{"fingerprint":%q,"expires_seconds":1}`, strings.Repeat("ab", 32))),
			"another node's exit": b.post(m, "/v1/members/leave", api.MemberLeaveRequest{Node: strings.Repeat("00", 16)}),
		} {
			if said := r.failure(); said.Code != api.CodeBadRequest {
				t.Errorf("%s: %d %s", what, r.status, r.body)
			}
		}
		wantCode(t, token(`{"fingerprint":"`+strings.Repeat("a", api.MaxBody)+`"}`), api.CodeTooLarge)
		wantCode(t, b.get(m, "/v1/key?key=nothing-here"), api.CodeNotFound)
		if list := read[api.Tokens](t, b.get(m, "/v1/tokens")); len(list.Tokens) != 0 {
			t.Errorf("tokens were made: %v", list)
		}
	})
}

// The same request sent again changes nothing and is answered like the first
// time; another one under its ID is a conflict.
func TestRequestIDsMakeRepeatingHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		b, id := browse(t, c, c.Operators[0].Key), newRequest()
		token := api.TokenCreateRequest{Fingerprint: strings.Repeat("ab", 32), Name: "first"}
		first := read[api.Token](t, b.postAs(c.Members[0], "/v1/tokens", id, token))
		time.Sleep(time.Minute)
		again := read[api.Token](t, b.postAs(c.Members[1], "/v1/tokens", id, token))
		if first != again {
			t.Errorf("%+v, then %+v", first, again)
		}
		client := api.ClientAddRequest{Name: "x", Public: c.Operators[0].Public().Public, Role: api.Auditor}
		wantCode(t, b.postAs(c.Members[2], "/v1/clients", id, client), api.CodeConflict)

		ceremony := newRequest()
		opened := read[api.Ceremony](t, b.postAs(c.Members[0], "/v1/dkek/create", ceremony, api.CreateDKEKRequest{}))
		same := read[api.Ceremony](t, b.postAs(c.Members[1], "/v1/dkek/create", ceremony, api.CreateDKEKRequest{}))
		if opened.ID != same.ID || !bytes.Equal(opened.Open, same.Open) {
			t.Errorf("a repeated request opened %s after %s", same.ID, opened.ID)
		}
	})
}

// A node without a quorum answers what it knows, says how old that is, and
// refuses changes with the way out.
func TestMinorityAnswersWithItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		b, alone := browse(t, c, c.Operators[0].Key), c.Follower()
		if age := b.get(alone, "/v1/members").header.Get(api.HeaderStateAge); age != "0" {
			t.Errorf("a linearizable answer has age %q", age)
		}
		for _, m := range c.Members {
			if m != alone {
				m.Crash()
			}
		}
		time.Sleep(10 * time.Second)
		r := b.get(alone, "/v1/members")
		var seconds float64
		fmt.Sscan(r.header.Get(api.HeaderStateAge), &seconds)
		if members := read[api.Members](t, r); len(members.Members) != 3 || seconds < 9 || seconds > 30 {
			t.Errorf("%d members, %s s old", len(members.Members), r.header.Get(api.HeaderStateAge))
		}
		if id := r.header.Get(api.HeaderNode); id != alone.ID().String() {
			t.Errorf("answered by %q", id)
		}
		status := read[api.Status](t, b.get(alone, "/v1/status"))
		if status.Quorum || status.CanLose.Voters != 0 || !strings.Contains(strings.Join(status.Warnings, "\n"), "no quorum") {
			t.Errorf("%+v", status)
		}
		wantCode(t, b.post(alone, "/v1/tokens", api.TokenCreateRequest{Fingerprint: strings.Repeat("cd", 32)}), api.CodeNoQuorum)
	})
}

// The story of a cluster over HTTP alone: deal, make keys, use them, look at it.
func TestAClusterOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Blank: true})
		b, checked := browse(t, c, c.Operators[0].Key), newContract(t)
		m := c.Members[1]
		status := read[api.Status](t, checked(api.ClusterStatus, b.get(m, "/v1/status")))
		if status.DKEK.State != "none" || status.Restore.Possible || status.Node.State != api.StateUnready {
			t.Errorf("before the deal: %+v", status)
		}
		opened := read[api.Ceremony](t, checked(api.DKEKCreate, b.post(m, "/v1/dkek/create", api.CreateDKEKRequest{})))
		signature, err := fsm.SignMessage(c.Operators[0].Key, fsm.DomainApproval, opened.Open)
		if err != nil {
			t.Fatal(err)
		}
		sign := api.CeremonySignRequest{ID: opened.ID, Operator: c.Operators[0].Public().Fingerprint().String(), Signature: signature}
		read[api.Ceremony](t, checked(api.CeremonyApprove, b.post(c.Members[2], "/v1/ceremony/approve", sign)))
		done := opened
		for done.State != api.CeremonyDone && done.State != api.CeremonyFailed {
			path := fmt.Sprintf("/v1/ceremony?id=%s&after=%d&wait=30", opened.ID, done.Revision)
			done = read[api.Ceremony](t, checked(api.CeremonyShow, b.get(m, path)))
		}
		if done.Outcome != "success" {
			t.Fatalf("%+v", done)
		}
		c.Eventually("the node is ready", func() bool { return b.get(m, "/health/ready").status == http.StatusOK })

		made := read[api.Key](t, checked(api.KeyCreate, b.post(m, "/v1/keys", api.KeyCreateRequest{Name: "db/tables", Type: "ed25519"})))
		if made.Newest != 1 || len(made.Versions) != 1 {
			t.Errorf("%+v", made)
		}
		signed := read[api.SignResponse](t, checked(api.KeySign, b.post(c.Members[0], "/v1/key/sign",
			api.SignRequest{Key: "db/tables", Inputs: [][]byte{[]byte("one"), []byte("two")}})))
		public := read[api.PublicKey](t, checked(api.KeyPublic, b.get(m, "/v1/key/public?key=db/tables")))
		parsed, err := x509.ParsePKIXPublicKey(public.Public)
		if err != nil {
			t.Fatal(err)
		}
		for i, message := range []string{"one", "two"} {
			if !ed25519.Verify(parsed.(ed25519.PublicKey), []byte(message), signed.Signatures[i]) {
				t.Errorf("the signature of %q does not verify", message)
			}
		}
		var many [][]byte
		for i := range api.MaxInputs {
			many = append(many, fmt.Append(nil, i))
		}
		signed = read[api.SignResponse](t, b.post(m, "/v1/key/sign", api.SignRequest{Key: "db/tables", Inputs: many}))
		for i, signature := range signed.Signatures {
			if !ed25519.Verify(parsed.(ed25519.PublicKey), many[i], signature) {
				t.Fatalf("of %d signatures number %d is not its input's", len(many), i)
			}
		}
		wantCode(t, b.post(m, "/v1/key/sign", api.SignRequest{Key: "db/tables", Inputs: append(many, nil)}), api.CodeBadRequest)
		many[700] = make([]byte, api.MaxMessage+1)
		wantCode(t, b.post(m, "/v1/key/sign", api.SignRequest{Key: "db/tables", Inputs: many}), api.CodeTooLarge)
		user := addClient(t, c, b, api.User)
		other := read[api.Key](t, b.post(m, "/v1/keys", api.KeyCreateRequest{Name: "web/cookies", Type: "aes-256"}))
		c.Eventually("the user is known", func() bool { return user.get(m, "/v1/whoami").status == http.StatusOK })
		if list := read[api.Keys](t, checked(api.KeyList, user.get(m, "/v1/keys"))); len(list.Keys) != 1 || list.Keys[0].Name != "db/tables" {
			t.Errorf("the user sees %+v", list)
		}
		wantCode(t, user.post(m, "/v1/key/encrypt", api.EncryptRequest{Key: other.Name}), api.CodeNotAllowed)
		wantCode(t, b.get(m, "/v1/key/public?key="+other.Name), api.CodeNotAllowed)
		checked(api.Random, b.get(m, "/v1/random?bytes=32"))

		// Everything that can be read is what the document says.
		for _, route := range api.Routes() {
			if route.Method != "GET" || !route.May(api.Operator) || route.Response == nil {
				continue
			}
			query := map[string]string{api.KeyShow: "?key=db/tables", api.KeyPublic: "?key=db/tables", api.CeremonyShow: "?id=" + opened.ID, api.Random: "?bytes=16"}
			read[any](t, checked(route.Name, b.get(m, route.Path+query[route.Name])))
		}
		status = read[api.Status](t, b.get(m, "/v1/status"))
		if !status.DKEK.Proven || status.CanLose.Nodes != 1 || !status.Restore.Possible || status.Keys.Keys != 2 || len(status.Devices) != 3 {
			t.Errorf("%+v", status)
		}
		metrics := string(b.get(m, "/metrics").body)
		for _, line := range []string{"keycustodian_keys 2", "keycustodian_ready 1", "keycustodian_members 3", "keycustodian_share_healthy 1",
			"keycustodian_restore_failed 0", `keycustodian_device_operations_total{failed="false",operation="generate"}`, `route="key.create"`} {
			if !strings.Contains(metrics, line) {
				t.Errorf("metrics lack %s", line)
			}
		}
		if audit := read[api.Audit](t, b.get(m, "/v1/audit?limit=3")); len(audit.Records) != 3 || audit.Next != 3 || audit.Records[0].Action != "cluster.init" {
			t.Errorf("%+v", audit)
		}
	})
}
