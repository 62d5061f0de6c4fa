package fsm

import "github.com/keycustodian/keycustodian/dkek"

// Token lets one node join, once. Only the fingerprint of its public key is
// kept. Its change key is that fingerprint, 32 bytes.
type Token struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
	Name        string           `cbor:"2,keyasint"`
	Expires     int64            `cbor:"3,keyasint"` // the log's time, Unix milliseconds
	Index       uint64           `cbor:"4,keyasint"`
}

func (*Token) table() Table  { return TableTokens }
func (x *Token) key() []byte { return x.Fingerprint[:] }

// TokenCreate announces a join token at an operator's word.
type TokenCreate struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
	Name        string           `cbor:"2,keyasint"`
	Expires     int64            `cbor:"3,keyasint"`
}

func (*TokenCreate) Kind() Kind { return KindTokenCreate }

func (b *TokenCreate) apply(t *txn) (Value, *Error) {
	if err := t.byOperator(); err != nil {
		return Value{}, err
	}
	if err := CheckName(b.Name); err != nil {
		return Value{}, err
	}
	if b.Fingerprint == (dkek.Fingerprint{}) {
		return Value{}, refuse(BadRequest, "token without a fingerprint")
	}
	if b.Expires <= t.now {
		return Value{}, refuse(Expired, "token %s would have expired already", b.Name)
	}
	if b.Expires-t.now > MaxTokenTime.Milliseconds() {
		return Value{}, refuse(BadRequest, "token %s: a token lives %v at most", b.Name, MaxTokenTime)
	}
	if _, ok := t.Token(b.Fingerprint); ok {
		return Value{}, refuse(Exists, "this token exists")
	}
	var expired []*Token
	for x := range t.Tokens() {
		if x.Expires < t.now {
			expired = append(expired, x)
		}
	}
	if t.count(TableTokens)-len(expired) >= MaxTokens {
		return Value{}, refuse(TooMany, "%d tokens at most: remove one", MaxTokens)
	}
	for _, x := range expired {
		t.remove(x)
	}
	t.put(&Token{Fingerprint: b.Fingerprint, Name: b.Name, Expires: b.Expires, Index: t.index})
	t.audit("token create", b.Name, b.Fingerprint.String())
	return Value{}, nil
}

// TokenRemove takes a join token back.
type TokenRemove struct {
	Fingerprint dkek.Fingerprint `cbor:"1,keyasint"`
}

func (*TokenRemove) Kind() Kind { return KindTokenRemove }

func (b *TokenRemove) apply(t *txn) (Value, *Error) {
	if err := t.byOperator(); err != nil {
		return Value{}, err
	}
	token, ok := t.Token(b.Fingerprint)
	if !ok {
		return Value{}, refuse(NotFound, "no such token")
	}
	t.remove(token)
	t.audit("token remove", token.Name, "")
	return Value{}, nil
}
