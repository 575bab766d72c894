use crate::Result;
use std::collections::BTreeMap;

/// Where training images come from: a folder or a simulator. An image is a pure function of its index.
pub trait ImageSource: Send + Sync {
    /// What it is, for the card of a prior trained on it.
    fn describe(&self) -> String;
    /// (channel, y, x) of one image.
    fn item_shape(&self) -> [usize; 3];
    /// Number of images, none when there is no end.
    fn len(&self) -> Option<u64>;
    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
    /// The value that pixels have exactly where there is nothing, in many images: a network that is trained on them says how probable that is.
    fn background(&self) -> Option<f64> {
        None
    }
    /// Further entries for the metadata of a prior trained on it: what its users must know and the images alone do not show.
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// Writes image `index` into `out` (row-major, item_shape), in the units in which the network sees it.
    fn fill(&self, index: u64, out: &mut [f32]) -> Result<()>;
}
