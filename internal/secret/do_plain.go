//go:build !goexperiment.runtimesecret

package secret

// Do runs f so that the stack, registers and heap memory that it used are wiped
// when it is done. Built without GOEXPERIMENT=runtimesecret, it only calls f.
func Do(f func()) { f() }

// Erases reports whether Do wipes.
func Erases() bool { return false }
