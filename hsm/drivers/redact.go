package drivers

import (
	"slices"
	"strings"
)

// shown are the parameters whose value says where something is, not what.
var shown = []string{"memory", "serial", "token", "manufacturer", "model", "object", "id", "slot-id", "type",
	"library-manufacturer", "library-description", "library-version", "slot-manufacturer", "slot-description", "module-name", "module-path"}

// sources are the parameters whose value is a secret's source.
var sources = []string{"seal-source", "pin-source", "so-pin-source"}

// Redact returns a URI for printing: every value that could be a secret, also
// one typed in the wrong place, is replaced.
func Redact(uri string) string {
	var out strings.Builder
	for i := 0; i < len(uri); {
		end := strings.IndexAny(uri[i:], "?&;")
		if end < 0 {
			end = len(uri) - i
		}
		part := uri[i : i+end]
		// Of the scheme's part, what follows the colon may be an attribute too.
		prefix := ""
		if i == 0 {
			if colon := strings.Index(part, ":"); colon >= 0 {
				prefix, part = part[:colon+1], part[colon+1:]
			}
		}
		out.WriteString(prefix)
		out.WriteString(redactPart(part, i == 0))
		if i += end; i < len(uri) {
			out.WriteByte(uri[i])
			i++
		}
	}
	return out.String()
}

func redactPart(part string, first bool) string {
	name, value, found := strings.Cut(part, "=")
	switch {
	case !found && (first || slices.Contains(shown, name)), part == "":
		return part
	case found && first && strings.ContainsAny(name, "/."): // a path with = in it
		return part
	case found && slices.Contains(shown, name):
		return part
	case found && slices.Contains(sources, name) && isSource(value):
		return part
	case found && name == "slots" && strings.Trim(value, "0123456789") == "":
		return part
	case found:
		return name + "=[redacted]"
	}
	return "[redacted]"
}

func isSource(value string) bool {
	for _, kind := range []string{"file:", "credential:", "fd:", "file%3A", "credential%3A", "fd%3A"} {
		if strings.HasPrefix(value, kind) {
			return true
		}
	}
	return value == "prompt"
}
