package node

import "fmt"

// Served says what is answered, by route name: request, response and number of
// secrets.
func Served() map[string]string {
	served := map[string]string{}
	for name, e := range endpoints() {
		served[name] = fmt.Sprintf("%T %T %d", e.request, e.response, e.secrets)
	}
	return served
}
