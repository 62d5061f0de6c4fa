package main

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
)

// fake is a member with a cluster of its own in memory. It checks callers,
// queries and bodies as the route table says, keeps software keys, and can lie.
type fake struct {
	path    string
	id      dkek.NodeID
	key     ed25519.PrivateKey
	cluster dkek.ClusterID
	tls     *httptest.Server
	socket  *http.Server

	mu         sync.Mutex
	set_       fsm.OperatorSet
	policy     fsm.Policy
	chain      []api.GovernRecord
	clients    []api.Client
	ceremonies []*api.Ceremony
	keys       map[string]*fakeKey
	requests   map[string]any // answers of changes, by their request IDs
	lie, fail  string
	age        string // of the state, in seconds
	two        bool   // there is a node-2, which never answers
	signed     int
}

type handlers map[string]func(who api.Who, query, request any) (any, error)

func newFake(path string) (*fake, error) {
	f := &fake{path: path, keys: map[string]*fakeKey{}, requests: map[string]any{}}
	rand.Read(f.id[:])
	var err error
	if _, f.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, f.key.Public(), f.key)
	if err != nil {
		return nil, err
	}
	f.tls = httptest.NewUnstartedServer(f.mux())
	f.tls.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: f.key}}}
	f.tls.StartTLS()
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	f.socket = &http.Server{Handler: f.mux()}
	go f.socket.Serve(listener)
	return f, nil
}

func (f *fake) close()             { f.tls.Close(); f.socket.Close() }
func (f *fake) address() string    { return f.tls.Listener.Addr().String() }
func (f *fake) set(do func(*fake)) { f.mu.Lock(); defer f.mu.Unlock(); do(f) }

func (f *fake) spki() []byte {
	der, _ := x509.MarshalPKIXPublicKey(f.key.Public())
	return der
}

func (f *fake) holder() dkek.Holder {
	return dkek.Holder{Node: f.id, Fingerprint: fsm.FingerprintOf(f.spki())}
}

func (f *fake) wire() api.Cluster {
	members := []api.Endpoint{{ID: f.id.String(), Name: "node-1", Address: f.address(), Fingerprint: f.holder().Fingerprint.String()}}
	if f.two {
		members = append(members, api.Endpoint{ID: strings.Repeat("ab", 16), Name: "node-2", Address: "127.0.0.1:1", Fingerprint: strings.Repeat("cd", 32)})
	}
	return api.Cluster{ID: f.cluster.String(), Name: "test", Incarnation: 1, Members: members}
}

func (f *fake) mux() http.Handler {
	mux := http.NewServeMux()
	for _, route := range api.Routes() {
		mux.HandleFunc(route.Pattern(), func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			defer f.mu.Unlock()
			w.Header().Set(api.HeaderNode, f.id.String())
			w.Header().Set(api.HeaderStateAge, cmp.Or(f.age, "0"))
			answer, err := f.once(route, r)
			if f.fail == "hang up" {
				panic(http.ErrAbortHandler)
			}
			var refused *api.Error
			if errors.As(err, &refused) {
				refused.Node = "node-1"
				w.WriteHeader(refused.Code.Status())
				json.NewEncoder(w).Encode(refused)
				return
			}
			json.NewEncoder(w).Encode(answer)
		})
	}
	return mux
}

func refuse(code api.Code, message string) error { return &api.Error{Code: code, Message: message} }

// once answers a repeated change as it did the first time.
func (f *fake) once(route api.Route, r *http.Request) (any, error) {
	id := r.Header.Get(api.HeaderRequest)
	if answer, ok := f.requests[id]; ok && route.Changes {
		return answer, nil
	}
	answer, err := f.answer(route, r)
	if err == nil && route.Changes {
		f.requests[id] = answer
	}
	return answer, err
}

func (f *fake) answer(route api.Route, r *http.Request) (any, error) {
	who := f.who(r)
	switch {
	case f.fail == "slow":
		time.Sleep(1200 * time.Millisecond)
	case f.fail != "" && f.fail != "hang up":
		return nil, refuse(api.Code(f.fail), "made to fail")
	case who == "" && !route.May(api.Anyone):
		return nil, refuse(api.CodeUnauthenticated, "no known key")
	case !route.May(who):
		return nil, refuse(api.CodeForbidden, string(who)+" may not "+route.Name)
	case route.Changes && len(r.Header.Get(api.HeaderRequest)) != 32:
		return nil, refuse(api.CodeBadRequest, "no request ID")
	}
	var query, request any
	if route.Query != nil {
		query = reflect.New(reflect.TypeOf(route.Query)).Interface()
		if err := api.DecodeQuery(r.URL.Query(), query); err != nil {
			return nil, refuse(api.CodeBadRequest, err.Error())
		}
	}
	if route.Request != nil {
		request = reflect.New(reflect.TypeOf(route.Request)).Interface()
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(request); err != nil {
			return nil, refuse(api.CodeBadRequest, err.Error())
		}
	}
	if route.Secrets != nil {
		secrets, err := api.ReadSecrets(r.Body, len(route.Secrets))
		if err != nil {
			return nil, refuse(api.CodeBadRequest, err.Error())
		}
		return f.secret(route.Name, secrets)
	}
	for _, part := range []handlers{f.clusterHandlers(), f.ceremonyHandlers(), f.keyHandlers()} {
		if handle, ok := part[route.Name]; ok {
			return handle(who, query, request)
		}
	}
	return nil, refuse(api.CodeInternal, "the fake has no "+route.Name)
}

// who knows operators and clients by their keys.
func (f *fake) who(r *http.Request) api.Who {
	if r.TLS == nil {
		return api.Socket
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	fingerprint := fsm.FingerprintOf(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
	if _, ok := f.set_.Find(fingerprint); ok {
		return api.Operator
	}
	for _, c := range f.clients {
		if c.Fingerprint == fingerprint.String() {
			return c.Role
		}
	}
	return ""
}

func (f *fake) secret(route string, secrets [][]byte) (any, error) {
	if route == api.SecretPIN && string(secrets[0]) != "648219" {
		left := 2
		return nil, &api.Error{Code: api.CodeWrongPIN, Message: "wrong PIN: 2 tries left", TriesLeft: &left}
	}
	if route == api.SecretSeal && len(secrets[0]) != 32 {
		return nil, refuse(api.CodeBadRequest, "a seal secret has 32 bytes")
	}
	if route == api.DevicePINChange || route == api.DevicePINUnblock || route == api.DeviceReseal {
		return api.Ack{}, nil
	}
	return api.Health{State: api.StateOpen, Ready: true, Quorum: true, Version: "test"}, nil
}

func (f *fake) clusterHandlers() handlers {
	member := api.Member{ID: f.id.String(), Name: "node-1", Address: "10.0.0.1:7400", APIAddress: f.address(), Suffrage: "voter",
		Fingerprint: f.holder().Fingerprint.String(), Leader: true, Reachable: true, State: "open", JoinedAt: time.Unix(1e9, 0).UTC()}
	return handlers{
		api.ClusterInit: func(_ api.Who, _, request any) (any, error) {
			r := request.(*api.InitRequest)
			if f.set_.Number != 0 {
				return nil, refuse(api.CodeExists, "in a cluster already")
			}
			rand.Read(f.cluster[:])
			f.set_ = makeSet(f.cluster, 1, r.Approvals, r.Operators)
			set := setToWire(f.set_)
			if f.lie == "digest" {
				set.Digest = hex.EncodeToString(make([]byte, 32))
			}
			return api.InitResponse{Cluster: f.wire(), Operators: set}, nil
		},
		api.ClusterJoin: func(_ api.Who, _, request any) (any, error) {
			return api.JoinResponse{Cluster: f.wire(), Node: f.id.String(), Before: f.lie == "member"}, nil
		},
		api.ClusterRotate: func(api.Who, any, any) (any, error) {
			return api.RotateNodeKeyResponse{Fingerprint: f.holder().Fingerprint.String()}, nil
		},
		api.ClusterShow: func(api.Who, any, any) (any, error) { return f.wire(), nil },
		api.MemberList:  func(api.Who, any, any) (any, error) { return api.Members{Members: []api.Member{member}}, nil },
		api.ClusterStatus: func(api.Who, any, any) (any, error) {
			member, now := member, time.Now().UTC()
			if f.lie == "clock" {
				off := 2 * time.Hour.Seconds()
				member.ClockAheadSeconds, now = &off, now.Add(2*time.Hour)
			}
			if f.lie == "half an hour" {
				now = now.Add(30 * time.Minute)
			}
			return api.Status{Cluster: f.wire(), Node: api.NodeStatus{ID: f.id.String(), Name: "node-1", State: "open", Version: "test", Time: now},
				LogTime: now, CommandVersion: 1,
				Leader: f.id.String(), Quorum: true, Members: []api.Member{member}, DKEK: api.DKEK{State: "none", Holders: []api.ShareHolder{}},
				Devices: []api.Device{}, Operators: len(f.set_.Operators), Approvals: f.set_.Approvals, Keys: api.KeyCounts{Keys: len(f.keys)},
				Restore: api.Restore{Holders: []string{}, Why: "there is no DKEK"}, Warnings: []string{"fewer than three nodes"}}, nil
		},
		api.TokenCreate: func(_ api.Who, _, request any) (any, error) {
			r := request.(*api.TokenCreateRequest)
			return api.Token{Fingerprint: r.Fingerprint, ExpiresAt: time.Unix(2e9, 0).UTC()}, nil
		},
		api.OperatorList:  func(api.Who, any, any) (any, error) { return setToWire(f.set_), nil },
		api.OperatorChain: f.chainAfter,
		api.PolicyShow:    func(api.Who, any, any) (any, error) { return policyOf(f.policy), nil },
		api.ClientAdd: func(_ api.Who, _, request any) (any, error) {
			r := request.(*api.ClientAddRequest)
			c := api.Client{Name: r.Name, Fingerprint: fsm.FingerprintOf(r.Public).String(), Role: r.Role, Prefixes: r.Prefixes, Verbs: r.Verbs, AddedAt: time.Unix(1e9, 0).UTC()}
			f.clients = append(f.clients, c)
			return c, nil
		},
		api.ClientList:   func(api.Who, any, any) (any, error) { return api.Clients{Clients: f.clients}, nil },
		api.ClientRemove: func(api.Who, any, any) (any, error) { f.clients = nil; return api.Ack{Index: 1}, nil },
		api.DeviceInfo: func(api.Who, any, any) (any, error) {
			id := f.id
			if f.lie == "device" {
				id[0] ^= 1
			}
			return api.DeviceDetails{Device: api.Device{Node: id.String(), Name: "node-1", Kind: "soft", Serial: "S1", State: "ready", Slots: 8}, FreeSlots: 8, UserTries: 3, SOTries: 15}, nil
		},
		api.DeviceList: func(api.Who, any, any) (any, error) {
			restored := &api.Restored{Total: 9, Done: 7, Failed: 2}
			return api.Devices{Devices: []api.Device{
				{Name: "node-1", Kind: "soft", Serial: "S1", State: "ready", KCV: "ab", Slots: 8, Keys: 7, Restored: restored, Combines: true},
				{Name: "node-2", Kind: "smartcard-hsm", Serial: "S2", State: "ready", KCV: "ab", Slots: 8, Keys: 7, Combines: true},
				{Name: "node-3", Kind: "pkcs11", Serial: "S3", State: "ready", KCV: "ab", Slots: 8},
				{Name: "node-4", Kind: "soft", Serial: "S4", State: "blank", Slots: 8},
			}}, nil
		},
		api.DeviceWipe: func(who api.Who, _, request any) (any, error) {
			q := request.(*api.WipeRequest)
			if q.Serial != "S1" {
				return nil, refuse(api.CodeConflict, "another device")
			}
			if who == api.Socket {
				return api.Ack{}, nil
			}
			return api.Ack{}, f.verifyWord(q.OperatorWord, fsm.DeviceStatement{Act: fsm.ActWipe})
		},
		api.DeviceAside: func(_ api.Who, _, request any) (any, error) {
			return api.Ack{}, f.verifyWord(request.(*api.AsideRequest).OperatorWord, fsm.DeviceStatement{Act: fsm.ActAdopt, Slot: 7, Name: "found"})
		},
		api.AuditList: func(api.Who, any, any) (any, error) {
			return api.Audit{Records: []api.AuditRecord{{Seq: 1, Index: 1, At: time.Unix(1e9, 0).UTC(), Node: "n", Action: "cluster init", Target: "test\x1b[2J", Hash: "h"}}, Head: "h"}, nil
		},
	}
}

// verifyWord wants just this word about the fake's device.
func (f *fake) verifyWord(word api.OperatorWord, want fsm.DeviceStatement) error {
	fingerprint, err := client.ParseFingerprint(word.Operator)
	if err != nil {
		return refuse(api.CodeBadRequest, err.Error())
	}
	s, err := fsm.VerifyDevice(f.set_, word.Statement, fsm.Approval{Operator: dkek.Fingerprint(fingerprint), Signature: word.Signature})
	if err != nil {
		return refuse(api.CodeForbidden, err.Error())
	}
	if ahead := time.Until(time.UnixMilli(s.Expires)); ahead < time.Minute || ahead > fsm.MaxDeviceWord || s.Request == (fsm.RequestID{}) {
		return refuse(api.CodeBadRequest, "a word that lasts too long, or has no ID")
	}
	if f.lie == "half an hour" && time.Until(time.UnixMilli(s.Expires)) < 40*time.Minute {
		return refuse(api.CodeExpired, "too short by the log's time")
	}
	want.Cluster, want.Incarnation, want.Node, want.DeviceKind, want.DeviceSerial = f.cluster, 1, f.id, "soft", "S1"
	want.Request, want.Expires = s.Request, s.Expires
	if *s != want {
		return refuse(api.CodeConflict, fmt.Sprintf("signed %+v", s))
	}
	return nil
}

func (f *fake) chainAfter(_ api.Who, query, _ any) (any, error) {
	var chain api.GovernChain
	for _, record := range f.chain {
		if record.Number > query.(*api.ChainQuery).After {
			chain.Records = append(chain.Records, record)
		}
	}
	if f.lie == "chain" {
		chain.Records = []api.GovernRecord{{Number: 2, Open: []byte{0xA0}}}
	}
	return chain, nil
}
