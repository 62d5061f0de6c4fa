package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// strict refuses whatever has a second way to be written: indefinite lengths,
// duplicate or unknown fields, tags, and text that is not UTF-8.
func strict() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   4,
		MaxMapPairs:       16,
		MaxArrayElements:  16,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return mode
}

func encode(value any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(value)
}

// wireError is a RemoteError on the wire.
type wireError struct {
	Code    string `cbor:"1,keyasint"`
	Message string `cbor:"2,keyasint"`
}

func encodeError(e *RemoteError) ([]byte, error) {
	return encode(wireError{e.Code, e.Message})
}

func decodeError(data []byte) (*RemoteError, error) {
	var w wireError
	if err := strict().Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("transport: decode remote error: %w", err)
	}
	if !validName(w.Code, maxErrorCode) || len(w.Message) > maxErrorMessage {
		return nil, fmt.Errorf("transport: decode remote error: code or message out of bounds")
	}
	return &RemoteError{w.Code, w.Message}, nil
}

// writeFrame writes a four-byte big-endian length and the payload in one Write.
func writeFrame(w io.Writer, payload []byte) error {
	frame := make([]byte, 4, 4+len(payload))
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	_, err := w.Write(append(frame, payload...))
	return err
}

// errFrameSize is not ErrTooLarge, which promises that nothing was sent.
var errFrameSize = errors.New("frame too large")

// readFrame reads what writeFrame wrote. It allocates as bytes arrive, not as
// the length promises.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("transport: read frame: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if int64(size) > int64(limit) {
		return nil, fmt.Errorf("transport: read frame: %d bytes, at most %d: %w", size, limit, errFrameSize)
	}
	payload, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(payload) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("transport: read frame: %w", err)
	}
	return payload, nil
}
