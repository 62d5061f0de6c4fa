package secret

import (
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
)

// shown is what any formatter prints for a secret: not even its length, which
// for a PIN would be a hint.
const shown = "[secret]"

// Format implements fmt.Formatter for every verb, %#v and %x included.
func (*Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, shown) }

// String implements fmt.Stringer.
func (*Bytes) String() string { return shown }

// GoString implements fmt.GoStringer.
func (*Bytes) GoString() string { return shown }

// LogValue implements slog.LogValuer.
func (*Bytes) LogValue() slog.Value { return slog.StringValue(shown) }

// MarshalJSON, and the methods below, refuse with [ErrRefused].
func (*Bytes) MarshalJSON() ([]byte, error)                        { return nil, ErrRefused }
func (*Bytes) MarshalText() ([]byte, error)                        { return nil, ErrRefused }
func (*Bytes) MarshalBinary() ([]byte, error)                      { return nil, ErrRefused }
func (*Bytes) MarshalCBOR() ([]byte, error)                        { return nil, ErrRefused }
func (*Bytes) MarshalYAML() (any, error)                           { return nil, ErrRefused }
func (*Bytes) MarshalXML(_ *xml.Encoder, _ xml.StartElement) error { return ErrRefused }
func (*Bytes) GobEncode() ([]byte, error)                          { return nil, ErrRefused }

// GobDecode exists so that gob cannot fill a secret field by field either.
func (*Bytes) GobDecode([]byte) error { return ErrRefused }
