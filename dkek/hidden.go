package dkek

import (
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// hidden is embedded by every type that holds secrets: fmt and slog print a
// placeholder for it, and every encoder is refused with [secret.ErrRefused].
type hidden struct{}

const shown = "[secret]"

func (hidden) Format(f fmt.State, _ rune)                          { io.WriteString(f, shown) }
func (hidden) String() string                                      { return shown }
func (hidden) GoString() string                                    { return shown }
func (hidden) LogValue() slog.Value                                { return slog.StringValue(shown) }
func (hidden) MarshalJSON() ([]byte, error)                        { return nil, secret.ErrRefused }
func (hidden) MarshalText() ([]byte, error)                        { return nil, secret.ErrRefused }
func (hidden) MarshalBinary() ([]byte, error)                      { return nil, secret.ErrRefused }
func (hidden) MarshalCBOR() ([]byte, error)                        { return nil, secret.ErrRefused }
func (hidden) MarshalYAML() (any, error)                           { return nil, secret.ErrRefused }
func (hidden) MarshalXML(_ *xml.Encoder, _ xml.StartElement) error { return secret.ErrRefused }
func (hidden) GobEncode() ([]byte, error)                          { return nil, secret.ErrRefused }
