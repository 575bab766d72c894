//! The image beside the encoder, halved level by level, and the images that the decoder makes on its levels.

use super::UNet;
use super::gradients::Gradients;
use super::plan::{Join, ToImage};
use crate::Result;
use halation_compute::{
    Epilogue, GroupStats, Map, Resample, conv2d, conv2d_input_grad, group_norm_stats, resample, resample_backward, scaled_sum,
    smooth_down_framed, smooth_down_framed_backward,
};
use std::f32::consts::FRAC_1_SQRT_2;
use std::sync::Arc;

/// What went into the convolution of a join.
pub(super) struct JoinTape(Arc<Map>);

pub(super) struct ToImageTape {
    x: Arc<Map>,
    stats: GroupStats,
}

impl UNet {
    /// Lets the branch `aux` join the output `h` of a block; the branch goes on.
    pub(super) fn join_forward(&self, join: &Join, h: Map, aux: &mut Arc<Map>) -> Result<(Arc<Map>, JoinTape)> {
        match join {
            Join::Skip { conv, how } => {
                *aux = Arc::new(resample(aux, *how, 0)?);
                let out = conv2d(aux, self.weights(conv), Epilogue { residual: Some(&h), ..Epilogue::default() })?;
                Ok((Arc::new(out), JoinTape(aux.clone())))
            }
            Join::Residual { conv, how } => {
                // The convolution comes first and looks beyond the edge: the filter then reads its values there, not zeros.
                let framed = scaled_sum(aux, None, 1.0, 2)?.widen(1)?;
                let halved = halve_framed(&conv2d(&framed, self.weights(conv), Epilogue::default())?, *how)?;
                let out = Arc::new(scaled_sum(&h, Some(&halved), FRAC_1_SQRT_2, 0)?);
                *aux = out.clone();
                Ok((out, JoinTape(Arc::new(framed))))
            }
        }
    }

    /// From the gradient `g` of what the join made, that of the block's output; `g_aux`, the gradient of the branch after the join, becomes
    /// that before it.
    pub(super) fn join_backward(
        &self,
        join: &Join,
        tape: &JoinTape,
        g: Map,
        g_aux: &mut Option<Map>,
        gradients: Option<&mut Gradients>,
    ) -> Result<Map> {
        match join {
            Join::Skip { conv, how } => {
                if let Some(gradients) = gradients {
                    gradients.convs[conv.id].accumulate(&tape.0, &g)?;
                }
                let epilogue = Epilogue { residual: g_aux.as_ref(), ..Epilogue::default() };
                let halved = conv2d_input_grad(&g, self.weights(conv), epilogue)?;
                *g_aux = Some(resample_backward(&halved, *how)?);
                Ok(g)
            }
            Join::Residual { conv, how } => {
                let g = scaled_sum(&g, g_aux.as_ref(), FRAC_1_SQRT_2, 0)?;
                let g_conv = halve_framed_backward(&g, *how)?;
                if let Some(gradients) = gradients {
                    gradients.convs[conv.id].accumulate(&tape.0, &g_conv)?;
                }
                *g_aux = Some(conv2d_input_grad(&g_conv, self.weights(conv), Epilogue::default())?.crop(1, 0)?);
                Ok(g)
            }
        }
    }

    /// The image that `layers` make of `x`, plus the enlarged image of the coarser levels.
    pub(super) fn to_image_forward(&self, layers: &ToImage, x: Arc<Map>, coarser: Option<Map>) -> Result<(Map, ToImageTape)> {
        let stats = group_norm_stats(&x, layers.norm.groups, layers.norm.eps)?;
        let a = self.activation(&x, self.affine(&layers.norm), &stats, true, None, 1)?;
        let enlarged = coarser.map(|image| resample(&image, layers.how, 0)).transpose()?;
        let image = conv2d(&a, self.weights(&layers.conv), Epilogue { residual: enlarged.as_ref(), ..Epilogue::default() })?;
        Ok((image, ToImageTape { x, stats }))
    }

    /// The gradient of the layers' input plus `through`, that which comes from the blocks after it, from the gradient `g` of its image (with a
    /// border of one).
    pub(super) fn to_image_backward(
        &self,
        layers: &ToImage,
        tape: &ToImageTape,
        g: &Map,
        through: Option<&Map>,
        mut gradients: Option<&mut Gradients>,
    ) -> Result<Map> {
        if let Some(gradients) = gradients.as_deref_mut() {
            let a = self.activation(&tape.x, self.affine(&layers.norm), &tape.stats, true, None, 1)?;
            gradients.convs[layers.conv.id].accumulate(&a, g)?;
        }
        let g = conv2d_input_grad(g, self.weights(&layers.conv), Epilogue::default())?;
        self.norm_backward(g, &tape.x, &layers.norm, &tape.stats, true, through, 0, gradients)
    }
}

/// Halves an image with a frame of what the smoothing filter reads beyond the edge, which means over 2x2 pixels do not.
fn halve_framed(x: &Map, how: Resample) -> Result<Map> {
    match how {
        Resample::SmoothDown => Ok(smooth_down_framed(x, 0)?),
        how => Ok(resample(&x.crop(1, 0)?, how, 0)?),
    }
}

/// The gradient of the framed image, with a border of one.
fn halve_framed_backward(g: &Map, how: Resample) -> Result<Map> {
    match how {
        Resample::SmoothDown => Ok(smooth_down_framed_backward(g, 1)?),
        how => Ok(scaled_sum(&resample_backward(g, how)?, None, 1.0, 2)?.widen(1)?),
    }
}
