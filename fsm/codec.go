package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/keycustodian/keycustodian/dkek"
)

// EnvelopeFormat is the first byte of every command; the second is its kind.
const EnvelopeFormat = 1

// ErrUnknownKind means that a command is of a format or kind that this build
// does not know, or the cluster at a command version that it does not read. The
// latter stops the node: skipping what others apply would be divergence.
var ErrUnknownKind = errors.New("fsm: command of an unknown format or kind: this build is too old for the log")

// message is the CBOR of a command behind its envelope.
type message struct {
	Request RequestID        `cbor:"1,keyasint"`
	Time    int64            `cbor:"2,keyasint"`
	Who     dkek.Fingerprint `cbor:"3,keyasint"`
	Node    dkek.NodeID      `cbor:"4,keyasint"`
	Body    cbor.RawMessage  `cbor:"5,keyasint"`
}

// modes are the two CBOR modes, built once.
var modes = sync.OnceValues(func() (cbor.UserBufferEncMode, cbor.DecMode) {
	options := cbor.CoreDetEncOptions()
	options.NilContainers = cbor.NilContainerAsEmpty // else nil and empty were two encodings
	enc, err := options.UserBufferEncMode()
	if err != nil {
		panic(err) // constant options
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   16,
		MaxArrayElements:  MaxCommand,
		MaxMapPairs:       1024,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return enc, dec
})

// marshal encodes in core deterministic form.
func marshal(v any) ([]byte, error) {
	enc, _ := modes()
	var buffer bytes.Buffer
	if err := enc.MarshalToBuffer(v, &buffer); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// unmarshal accepts only the bytes that marshal would have made of what it
// reads: one meaning, one encoding.
func unmarshal(data []byte, v any) error {
	_, dec := modes()
	if err := dec.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, again) {
		return errors.New("not in core deterministic form")
	}
	return nil
}

// Encode returns a command's bytes: format, kind, CBOR.
func Encode(c Command) ([]byte, error) {
	if c.Body == nil {
		return nil, errors.New("fsm: encode: no body")
	}
	body, err := marshal(c.Body)
	if err != nil {
		return nil, fmt.Errorf("fsm: encode: %w", err)
	}
	return encodeMessage(c.Body.Kind(), message{c.Request, c.Time, c.Actor.Who, c.Actor.Node, body})
}

func encodeMessage(kind Kind, m message) ([]byte, error) {
	enc, _ := modes()
	buffer := bytes.NewBuffer(make([]byte, 0, len(m.Body)+128))
	buffer.Write([]byte{EnvelopeFormat, byte(kind)})
	if err := enc.MarshalToBuffer(m, buffer); err != nil {
		return nil, fmt.Errorf("fsm: encode: %w", err)
	}
	if buffer.Len() > MaxCommand {
		return nil, refuse(BadRequest, "command of %d bytes: %d at most", buffer.Len(), MaxCommand)
	}
	return buffer.Bytes(), nil
}

// Decode reverses Encode. It refuses every other encoding of the same command,
// unknown fields, duplicate keys, indefinite lengths, tags, floats and more than
// [MaxCommand] bytes. An unknown format or kind is [ErrUnknownKind].
func Decode(command []byte) (Command, error) {
	c, _, err := decode(command)
	return c, err
}

// decode gives the body's bytes as well: they are what the body encodes to.
func decode(command []byte) (Command, []byte, error) {
	m, body, err := decodeMessage(command)
	if err != nil {
		return Command{}, nil, err
	}
	if err := unmarshal(m.Body, body); err != nil {
		return Command{}, nil, fmt.Errorf("fsm: decode kind %d: %w", command[1], err)
	}
	header := Header{Request: m.Request, Time: m.Time, Actor: Actor{Who: m.Who, Node: m.Node}}
	return Command{Header: header, Body: body}, m.Body, nil
}

func decodeMessage(command []byte) (message, Body, error) {
	var m message
	if len(command) > MaxCommand {
		return m, nil, fmt.Errorf("fsm: decode: %d bytes: %d at most", len(command), MaxCommand)
	}
	if len(command) < 2 {
		return m, nil, errors.New("fsm: decode: truncated")
	}
	body := newBody(Kind(command[1]))
	if command[0] != EnvelopeFormat || body == nil {
		return m, nil, fmt.Errorf("%w (format %d, kind %d)", ErrUnknownKind, command[0], command[1])
	}
	if err := unmarshal(command[2:], &m); err != nil {
		return m, nil, fmt.Errorf("fsm: decode: %w", err)
	}
	return m, body, nil
}

// Stamp gives a command the leader's time, just before it is appended. A stamp
// that it carries already is replaced.
func Stamp(command []byte, now time.Time) ([]byte, error) {
	m, _, err := decodeMessage(command)
	if err != nil {
		return nil, err
	}
	m.Time = now.UnixMilli()
	return encodeMessage(Kind(command[1]), m)
}
