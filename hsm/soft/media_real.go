//go:build !faults

package soft

// tearable is what a build with the tag "faults" puts between a device and its
// disk: see media_faults.go. Here it is the disk.
func tearable(d *disk) media { return d }
